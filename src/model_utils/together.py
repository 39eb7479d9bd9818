"""What parameters may be together; what each may be alone, rules.py checks."""
from src.architectures import check_detected_input, check_input, network_facts, resolved
from src.errors import UserError


def check_network(config):
    """Raise UserError for a network that net_config cannot describe, or that does not take the training's inputs."""
    net_config = config.net_config.as_dict()
    resolved(net_config)
    check_input(network_facts(net_config), config.dataset_config.input_res_train, "dataset_config.input_res_train")


def check_evaluation(config, facts):
    """Raise UserError for evaluation settings that go alone, but not together, or not with a network (architectures.network_facts)."""
    options, size = config.eval_config, config.dataset_config.input_res_test
    if options.keep_res:
        return
    check_detected_input(facts, size, "dataset_config.input_res_test")
    if options.flip_test and size[0] % facts["stride"]:
        raise UserError(f"eval_config.flip_test needs an input whose mirror image lies on the same grid: the width of "
                        f"dataset_config.input_res_test is {size[0]}, no multiple of {facts['stride']}")
