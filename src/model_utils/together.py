"""What parameters may be together; what each may be alone, rules.py checks."""
from src.architectures import check_exact_input, check_input, resolved
from src.errors import UserError


def check_network(config):
    """Raise UserError for a network that net_config cannot describe, or that does not take the training's inputs."""
    resolved(config.net_config.as_dict())
    check_input(config.net_config.arch, config.dataset_config.input_res_train, "dataset_config.input_res_train")


def check_evaluation(config, arch=""):
    """Raise UserError for evaluation settings that go alone, but not together, or not with an architecture, "" where it is not known."""
    options, size = config.eval_config, config.dataset_config.input_res_test
    if options.keep_res:
        return
    check_exact_input(arch, size, "dataset_config.input_res_test")
    if options.flip_test and size[0] % 32:
        raise UserError(f"eval_config.flip_test needs an input whose mirror image lies on the same grid: the width of "
                        f"dataset_config.input_res_test is {size[0]}, no multiple of 32")
