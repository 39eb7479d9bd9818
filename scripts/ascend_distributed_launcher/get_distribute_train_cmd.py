"""Write the command file of a distributed training: one process for each of this server's devices in the rank table.

scripts/run_distributed_train_ascend.sh calls this and runs the file.
"""
import argparse
import configparser
import contextlib
import glob
import os
import re
import shlex
import socket
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
if __name__ == "__main__":
    sys.path[0] = ROOT

from src.commands.train import check_paths
from src.core import errors
from src.core.backups import back_up_existing, contains_files, contains_mark, free_name, require_ours
from src.core.console import LOG
from src.core.errors import UserError
from src.core.files import atomic_write
from src.inference.options import OptionParser
from src.launch.rank_table import HCCN_CONF, find_server, read_rank_table, share_cores
from src.model_utils.config import COMMAND_LINE, as_parameters, as_text, compose
from src.model_utils.local_adapter import has_npu
from src.model_utils.paths import absolute_paths

HERE = os.path.join(ROOT, "scripts", "ascend_distributed_launcher")
# What the launcher itself decides, so that it cannot be in the ini file.
OURS = ("device_id", "device_num", "device_target", "mindrecord_dir")
SCHEDULER_PORT = 8118
FOLDER = re.compile(r"LOG(_scheduler|\d+)")  # where a process works
# Tests for back_up_existing whether a folder, and a command file, are of an earlier launch.
LAUNCHED, WRITTEN = contains_files("env.log", "training_log.txt", "ckpt_0"), contains_mark("written by get_distribute_train_cmd.py")


def main(argv=None):
    options = parse(argv)
    servers = read_rank_table(options.hccl_config_dir)
    config, words = training_words(options, len(servers) > 1)
    target = options.device_target or config.device_target
    if target == "auto":
        target = "Ascend" if has_npu() else "CPU"
    LOG.info(f"{config.summary()}\ndevice: {target}")
    server = find_server(servers, options.server_id, options.hccn_conf)
    device_num = sum(len(other.devices) for other in servers)
    first = server.devices[0].rank
    # Several servers may share the current folder: the ranks tell their processes' folders apart.
    folders = [f"LOG{device.rank if len(servers) > 1 else device.device_id}" for device in server.devices]
    earlier = {}
    if options.keep_earlier:
        earlier = earlier_folders([*folders, *(["LOG_scheduler"] if first == 0 else [])] if len(servers) > 1 else glob.glob("LOG*"))
    words = [where_it_goes(word, earlier) for word in words]
    shares = share_cores(sorted(os.sched_getaffinity(0)), len(folders))
    processes = [(folder, *training_process(device, target, words, device_num, cores))
                 for folder, device, cores in zip(folders, server.devices, shares)]
    common = {"RANK_TABLE_FILE": os.path.abspath(options.hccl_config_dir), "RANK_SIZE": device_num,
              "HCCL_CONNECT_TIMEOUT": options.hccl_time_out}
    if len(servers) > 1:
        common["CENTERNET_SEVERAL_SERVERS"] = "yes"
    if target == "CPU":
        common.update(cluster_environment(servers, device_num, options.sched_port))
        if first == 0:
            processes.insert(0, ("LOG_scheduler", {"MS_ROLE": "MS_SCHED"}, "", [*words, "--distribute", "true", "--device_target", "CPU"]))
    for folder in {*earlier, *(folder for folder, *_ in processes)}:
        require_ours(folder, LAUNCHED)
    text = command_file(common, processes, [options.python, os.path.abspath(options.run_script_dir)], server)
    cmd_file = options.cmd_file.replace("{rank}", f"_rank{first}" if first else "")
    write(cmd_file, text)
    for folder in earlier:
        back_up_existing(folder, LAUNCHED)
    print(f"server {server.server_id}: ranks {first} to {server.devices[-1].rank} of {device_num}; wrote {cmd_file}")


def parse(argv):
    """The command line's options."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run_script_dir", default=os.path.join(ROOT, "train.py"), help="training script (default: %(default)s)")
    parser.add_argument("--hyper_parameter_config_dir", default=os.path.join(HERE, "hyper_parameter_config.ini"),
                        help="ini file whose section [config] holds training options (default: %(default)s)")
    parser.add_argument("--config_path", help="YAML file that states what differs from default_config.yaml; the ini file's values win")
    parser.add_argument("--mindrecord_dir", required=True, help="folder of the MindRecord files")
    parser.add_argument("--load_checkpoint_path", default="", help="checkpoint to start from")
    parser.add_argument("--hccl_config_dir", required=True, help="rank table (hccl.json)")
    parser.add_argument("--hccl_time_out", type=int, default=1200, help="seconds that devices wait for each other (default: %(default)s)")
    parser.add_argument("--cmd_file", default="distributed_cmd.sh",
                        help="file to write; {rank} in its name is left out on rank 0's server, else _rank<first> (default: %(default)s)")
    parser.add_argument("--keep_earlier", action="store_true",
                        help="give an earlier launch's folders, LOG*, other names now, so that a checkpoint in one is found there")
    parser.add_argument("--server_id", help="this server's server_id in the rank table (default: found by its addresses)")
    parser.add_argument("--hccn_conf", default=HCCN_CONF, help="file of this server's device addresses (default: %(default)s)")
    parser.add_argument("--device_target", choices=("auto", "Ascend", "CPU"),
                        help="device to train on; auto is Ascend where this server has one (default: what the configuration says)")
    parser.add_argument("--sched_port", type=int, help="port of the scheduler on rank 0's server, for CPU "
                                                       f"(default: a free one if there is one server, else {SCHEDULER_PORT})")
    parser.add_argument("words", nargs="*", metavar="-- --PARAMETER VALUE ...", help="parameters of train.py; they win over the ini file's")
    parser.add_argument("--python", default=sys.executable, help="Python interpreter (default: this one)")
    return parser.parse_args(argv)


def read_parameters(path):
    """{training option: text} of an ini file's section [config]. Raises UserError for what the launcher decides itself."""
    errors.require_file(path, "parameter file (--hyper_parameter_config_dir)")
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # names keep their capitals
    try:
        parser.read(path, encoding="utf-8-sig")
        parameters = {name: unquoted(value) for name, value in parser["config"].items()}
    except (configparser.Error, KeyError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not an ini file with a section [config] ({' '.join(str(error).split())})") from error
    for name in parameters:
        if name in OURS:
            raise UserError(f"{path}: {name} does not belong there, the launcher sets it")
    return parameters


def unquoted(value):
    """The value without quotation marks around it, which the model-zoo's files have."""
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value


def training_words(options, several=False):
    """(Config, the words of train.py's command line that all processes share), checked before any process starts; several: servers.

    What holds: default_config.yaml, --config_path, the ini file's config_path, the ini file, the words of the command line.
    """
    ini_path = options.hyper_parameter_config_dir
    ini = read_parameters(ini_path)
    files = [path for path in (options.config_path, find_recipe(ini.pop("config_path", ""))) if path]
    given = as_parameters(options.words)
    for name in given:
        if name in OURS:
            raise UserError(f"--{name} does not belong there, the launcher sets it")
    if options.load_checkpoint_path.strip():
        given.setdefault("load_checkpoint_path", options.load_checkpoint_path)
    given["mindrecord_dir"] = options.mindrecord_dir
    config = compose(files, [(ini_path, ini), (COMMAND_LINE, given)])
    if not config.distribute and config.origin("distribute") in (ini_path, COMMAND_LINE):
        raise UserError(f"distribute is false ({config.origin('distribute')}), and this launcher's processes train together; leave it "
                        "out, or train alone with scripts/run_standalone_train_ascend.sh")
    if several:
        require_outside(config)
    in_new_folder = FOLDER.fullmatch(os.path.relpath(os.path.join("LOG0", config.save_checkpoint_path)).split(os.sep)[0])
    if config.resume and not config.load_checkpoint_path and in_new_folder:
        raise UserError(f"resume is true ({config.origin('resume')}), and no LOAD_CHECKPOINT_PATH says what goes on; processes start in "
                        f"new folders, LOG<{'rank' if several else 'device'}>/, which hold no checkpoint yet: name "
                        f"{'one' if several else 'LOG0/last'}, or an absolute save_checkpoint_path")
    if not config.enable_modelarts:  # which copies them first
        check_paths(config, "LOG0")
    # The processes work in folders of their own; what YAML files say of paths is the caller's, too.
    parameters = {name: as_text(value) for name, value in config.parameters().items() if name not in OURS or name in given}
    chosen = {name: value for name, value in parameters.items() if config.origin(name) in (ini_path, COMMAND_LINE)}
    words = [word for path in files for word in ("--config_path", os.path.abspath(path))]
    return config, words + [word for name, value in {**chosen, **absolute_paths(config)}.items() for word in (f"--{name}", value)]


def require_outside(config):
    """Raise UserError for what is read from a process's folder: while one server moves that aside, another would look for it."""
    for name, path in absolute_paths(config).items():
        folder = os.path.relpath(path).split(os.sep)[0]
        if FOLDER.fullmatch(folder):
            raise UserError(f"{name} is {path} ({config.origin(name)}), and a launch moves {folder} aside: with several servers give it "
                            f"another name first (mv {folder} earlier), have it on each of them, and name it there")


def earlier_folders(names):
    """{folder of an earlier launch, among names: the name that back_up_existing will give it}."""
    return {folder: free_name(folder) for folder in sorted(names) if FOLDER.fullmatch(folder) and os.path.lexists(folder)}


def where_it_goes(word, folders):
    """A word of the command line; the path of what is there in one of earlier_folders() is the one that it will have."""
    if os.path.exists(word):
        for folder, aside in folders.items():
            for place in (os.path.abspath, os.path.realpath):
                if place(word).startswith(os.path.join(place(folder), "")):
                    return os.path.abspath(os.path.join(aside, os.path.relpath(place(word), place(folder))))
    return word


def write(path, text):
    """Write a text file. One of an earlier launch is replaced as a whole, since its shell may still be reading it; another is an error."""
    path = os.path.realpath(path)
    special = os.path.exists(path) and not os.path.isfile(path)
    if not special:
        require_ours(path, WRITTEN)
    with contextlib.nullcontext(path) if special else atomic_write(path) as place, open(place, "w", encoding="utf-8") as file:
        file.write(text)


def find_recipe(path):
    """The ini file's config_path: relative to the current folder, else to the project's."""
    in_project = os.path.join(ROOT, path)
    return in_project if path and not os.path.isfile(path) and os.path.isfile(in_project) else path


def training_process(device, device_target, words, device_num, cores):
    """(environment, cores, words of train.py) of the process that drives a device."""
    device_id = device.device_id if device_target == "Ascend" else 0
    environment = {"RANK_ID": device.rank, "DEVICE_ID": device.device_id}
    if device_target == "CPU":
        environment.update(MS_ROLE="MS_WORKER", MS_NODE_ID=device.rank)
    own = ["--distribute", "true", "--device_num", str(device_num), "--device_id", str(device_id), "--device_target", device_target]
    return environment, ",".join(map(str, cores)), [*words, *own]


def cluster_environment(servers, device_num, port):
    """What all processes of MindSpore's own cluster need; its scheduler is on the server of rank 0."""
    first = next(server for server in servers if server.devices[0].rank == 0)
    if not port:
        port = free_port() if len(servers) == 1 else SCHEDULER_PORT
    return {"MS_WORKER_NUM": device_num, "MS_SCHED_HOST": first.address, "MS_SCHED_PORT": port}


def free_port():
    """A port that no one listens on at present."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def command_file(common, processes, command, server):
    """The text of a shell script that starts the processes and looks after them."""
    lines = [
        "#!/usr/bin/env bash",
        '[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called by sh',
        f"# The training processes of server {server.server_id}; written by get_distribute_train_cmd.py.",
        f"source {shlex.quote(os.path.join(HERE, 'processes.sh'))}",
        *(f"export {name}={shlex.quote(str(value))}" for name, value in common.items()),
    ]
    for folder, environment, cores, words in processes:
        variables = " ".join(f"{name}={value}" for name, value in environment.items())
        pinned = f"taskset -c {cores} " if cores else ""
        lines += ["", f"start {folder} {variables} -- {pinned}{shlex.join([*command, *words])}"]
    return "\n".join([*lines, "", "supervise", ""])


if __name__ == "__main__":
    errors.run(main)
