"""``python -m capsule_lightning``."""

from capsule_lightning.cli import main

if __name__ == "__main__":
    main()
