"""How hard exploration is in a finite MDP: k-QVI-solvability, effective planning window, effective horizon.

Definitions: arXiv:2304.09853 (deterministic MDPs, GORP) and arXiv:2312.08369 (stochastic ones, SQIRL).
"""
