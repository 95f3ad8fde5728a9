"""Print the lower bounds of setup.cfg as constraints for pip, so that the lowest versions are installed."""

import configparser
import re
from pathlib import Path

SETUP = Path(__file__).parents[2] / "setup.cfg"


def constraints(setup: Path = SETUP) -> list[str]:
    """Return ``name==version`` for each requirement with a lower bound, of the package and of its ``test`` extra."""
    parser = configparser.ConfigParser()
    parser.read(setup)
    lines = f"{parser['options']['install_requires']}\n{parser['options.extras_require']['test']}".splitlines()
    found = (re.match(r"([\w.-]+)(?:\[[^]]*\])?>=([\d.]+)", line.strip()) for line in lines)
    return sorted({f"{match[1]}=={match[2]}" for match in found if match})


if __name__ == "__main__":
    print("\n".join(constraints()))
