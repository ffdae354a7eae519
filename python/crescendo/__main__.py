"""``python -m crescendo`` is the command ``crescendo``."""

from ._command import main

if __name__ == "__main__":
    main()
