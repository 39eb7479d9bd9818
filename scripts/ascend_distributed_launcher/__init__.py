"""Launcher for distributed training, called by scripts/run_distributed_train_ascend.sh."""
