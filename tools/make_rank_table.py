"""Write a rank table for this server, or merge the rank tables of several servers."""
import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    from src.commands import start

    start("make_rank_table")
