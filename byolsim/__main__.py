"""`python -m byolsim` is the command line."""

from byolsim.cli import main

if __name__ == "__main__":
    main()
