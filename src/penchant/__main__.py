"""`python -m penchant`: what `torchrun` and `accelerate launch` start."""

from penchant.cli.main import run

if __name__ == "__main__":
    run()
