#!/usr/bin/env bash
# A Slurm of this machine alone, as root: slurm.sh start FOLDER, then export SLURM_CONF=FOLDER/slurm.conf; slurm.sh stop FOLDER.
# On Debian: apt-get install slurmctld slurmd slurm-client munge
set -euo pipefail
action=${1:-} folder=${2:-}
{ [ "$action" = start ] || [ "$action" = stop ]; } && [ -n "$folder" ] || { echo "usage: slurm.sh start|stop FOLDER" >&2; exit 2; }
export PATH=$PATH:/usr/sbin SLURM_CONF=$folder/slurm.conf

stop() {
    for name in slurmctld slurmd munged; do
        [ ! -f "$folder/$name.pid" ] || kill "$(cat "$folder/$name.pid")" 2>/dev/null || true
    done
}

if [ "$action" = stop ]; then
    scancel --user "$(id -un)" --signal=KILL --full || true
    scancel --user "$(id -un)" || true
    stop
    exit 0
fi

for program in munged mungekey slurmctld slurmd sbatch; do
    command -v "$program" >/dev/null || { echo "there is no $program: apt-get install slurmctld slurmd slurm-client munge" >&2; exit 2; }
done
mkdir -p "$folder"/{state,spool}
chmod 755 "$folder"
mungekey --create --keyfile "$folder/munge.key"
munged --force --key-file "$folder/munge.key" --socket "$folder/munge.socket" --pid-file "$folder/munged.pid" \
    --log-file "$folder/munged.log" --seed-file "$folder/munged.seed"

# A node of two CPUs; jobs of the partition "low" give way to those of "high", and are requeued. A requeued job may start
# once its credential has expired.
cat >"$folder/slurm.conf" <<END
ClusterName=loopback
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthInfo=socket=$folder/munge.socket,cred_expire=10
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=10
ReturnToService=2
NodeName=$(hostname) NodeAddr=127.0.0.1 CPUs=2 RealMemory=2000
PartitionName=low Nodes=$(hostname) Default=YES PriorityTier=1 GraceTime=60
PartitionName=high Nodes=$(hostname) PriorityTier=2 PreemptMode=OFF
END

trap stop ERR
slurmctld
slurmd
for _ in $(seq 30); do
    [ "$(sinfo --noheader --partition low --format=%t)" != idle ] || exit 0
    sleep 1
done
echo "Slurm did not come up: see the logs in $folder" >&2
stop
exit 1
