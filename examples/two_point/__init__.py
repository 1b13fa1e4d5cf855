"""DigGAN's experiment on two points, which docs/two-point.md reports.

    handful reproduce diggan/two-point --seeds 200                 # from anywhere, where this checkout is installed (pip install -e .)
    python -m examples.two_point --seeds 200 --out two-point       # from the root of the checkout

experiment.py has the games and what is reported of them, game.py how one is played, nets.py the networks, plots.py the figures
(pip install 'handful[plots]').
"""
