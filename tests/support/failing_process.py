"""What tests/training/test_launch.py starts: says who it is, and fails in the second process."""

import os
import sys

print(f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}", flush=True)
sys.exit(3 if os.environ["RANK"] == "1" else 0)
