"""Write a rank table (hccl.json, version 1.0) for machines without a cluster manager: of this server, or of several servers' tables."""
import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    from src.commands import start

    start("make_rank_table")
