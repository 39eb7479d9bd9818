"""The launcher for distributed training; scripts/run_distributed_train_ascend.sh calls it."""
