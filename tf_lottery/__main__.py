"""``python -m tf_lottery`` is the command line."""

from tf_lottery.main import console

if __name__ == "__main__":
    console()
