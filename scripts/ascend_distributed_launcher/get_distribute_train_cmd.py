"""Write the command file for distributed training: one process for each device of this server in the rank table.

Called by scripts/run_distributed_train_ascend.sh, which runs the file.
"""
import argparse
import configparser
import contextlib
import glob
import os
import re
import shlex
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
from src.launch.ports import free_port
from src.launch.rank_table import HCCN_CONF, find_server, read_rank_table, share_cores
from src.model_utils.config import COMMAND_LINE, as_parameters, as_text, compose
from src.model_utils.local_adapter import has_npu
from src.model_utils.paths import absolute_paths
from src.training.checks import check_images

HERE = os.path.join(ROOT, "scripts", "ascend_distributed_launcher")
# Parameters that the launcher sets; the ini file may not have them.
RESERVED = ("device_id", "device_num", "device_target", "mindrecord_dir")
SCHEDULER_PORT = 8118
FOLDER = re.compile(r"LOG(_scheduler|\d+)")  # a process's working folder
# Tests for back_up_existing: whether an earlier launch made a folder, or a command file.
IS_OUR_FOLDER = contains_files("env.log", "training_log.txt", "ckpt_0")
IS_OUR_SCRIPT = contains_mark("written by get_distribute_train_cmd.py")


def main(argv=None):
    options = parse(argv)
    servers = read_rank_table(options.hccl_config_dir)
    config, args = training_args(options, len(servers) > 1)
    target = options.device_target or config.device_target
    if target == "auto":
        target = "Ascend" if has_npu() else "CPU"
    LOG.info(f"{config.summary()}\ndevice: {target}")
    server = find_server(servers, options.server_id, options.hccn_conf)
    device_num = sum(len(other.devices) for other in servers)
    if not config.enable_modelarts:
        check_images(config, device_num)
    first = server.devices[0].rank
    # Several servers may share the current folder, so their processes' folders have the rank in their names.
    folders = [f"LOG{device.rank if len(servers) > 1 else device.device_id}" for device in server.devices]
    earlier = {}
    if options.keep_earlier:
        ours = [*folders, *(["LOG_scheduler"] if first == 0 else [])]
        earlier = backup_names(ours if len(servers) > 1 else glob.glob("LOG*"))
    args = [relocated(arg, earlier) for arg in args]
    shares = share_cores(sorted(os.sched_getaffinity(0)), len(folders))
    processes = [(folder, *training_process(device, target, args, device_num, cores))
                 for folder, device, cores in zip(folders, server.devices, shares)]
    common = {"RANK_TABLE_FILE": os.path.abspath(options.hccl_config_dir), "RANK_SIZE": device_num,
              "HCCL_CONNECT_TIMEOUT": options.hccl_time_out}
    if len(servers) > 1:
        common["CENTERNET_SEVERAL_SERVERS"] = "yes"
    if target == "CPU":
        common.update(cluster_environment(servers, device_num, options.sched_port))
        if first == 0:
            scheduler_args = [*args, "--distribute", "true", "--device_target", "CPU"]
            processes.insert(0, ("LOG_scheduler", {"MS_ROLE": "MS_SCHED"}, "", scheduler_args))
    for folder in {*earlier, *(folder for folder, *_ in processes)}:
        require_ours(folder, IS_OUR_FOLDER)
    text = command_file(common, processes, [options.python, os.path.abspath(options.run_script_dir)], server)
    cmd_file = options.cmd_file.replace("{rank}", f"_rank{first}" if first else "")
    write(cmd_file, text)
    for folder in earlier:
        back_up_existing(folder, IS_OUR_FOLDER)
    print(f"server {server.server_id}: ranks {first} to {server.devices[-1].rank} of {device_num}; wrote {cmd_file}")


def parse(argv):
    """Parse the command line."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run_script_dir", default=os.path.join(ROOT, "train.py"),
                        help="training script (default: %(default)s)")
    parser.add_argument("--hyper_parameter_config_dir", default=os.path.join(HERE, "hyper_parameter_config.ini"),
                        help="ini file with training options in section [config] (default: %(default)s)")
    parser.add_argument("--config_path",
                        help="YAML file with changes to default_config.yaml; the ini file overrides it")
    parser.add_argument("--mindrecord_dir", required=True, help="folder with the MindRecord files")
    parser.add_argument("--load_checkpoint_path", default="", help="checkpoint to start from")
    parser.add_argument("--hccl_config_dir", required=True, help="rank table (hccl.json)")
    parser.add_argument("--hccl_time_out", type=int, default=1200,
                        help="timeout in seconds for connecting the devices (default: %(default)s)")
    parser.add_argument("--cmd_file", default="distributed_cmd.sh",
                        help="output file; {rank} in its name is replaced by _rank<first>, on rank 0's server by "
                             "nothing (default: %(default)s)")
    parser.add_argument("--keep_earlier", action="store_true",
                        help="back up an earlier launch's folders, LOG*, now, and update paths into them")
    parser.add_argument("--server_id", help="this server's id in the rank table (default: found by its addresses)")
    parser.add_argument("--hccn_conf", default=HCCN_CONF,
                        help="file with this server's device addresses (default: %(default)s)")
    parser.add_argument("--device_target", choices=("auto", "Ascend", "CPU"),
                        help="training device; auto is Ascend if this server has one (default: from the configuration)")
    parser.add_argument("--sched_port", type=int, help="port of the scheduler on rank 0's server, for CPU "
                                                       f"(default: a free one on one server, else {SCHEDULER_PORT})")
    parser.add_argument("args", nargs="*", metavar="-- --PARAMETER VALUE ...",
                        help="parameters of train.py; they override the ini file")
    parser.add_argument("--python", default=sys.executable, help="Python interpreter (default: this one)")
    return parser.parse_args(argv)


def read_parameters(path):
    """{training option: string} from section [config] of an ini file. Raises UserError for RESERVED parameters."""
    errors.require_file(path, "parameter file (--hyper_parameter_config_dir)")
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # case-sensitive names
    try:
        parser.read(path, encoding="utf-8-sig")
        parameters = {name: unquoted(value) for name, value in parser["config"].items()}
    except (configparser.Error, KeyError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not an ini file with a section [config] ({' '.join(str(error).split())})") from error
    for name in parameters:
        if name in RESERVED:
            raise UserError(f"{path}: {name} is not allowed, the launcher sets it")
    return parameters


def unquoted(value):
    """A value without enclosing quotation marks, which the model zoo's files have."""
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value


def training_args(options, several=False):
    """(Config, the arguments of train.py shared by all processes), checked before any process starts.

    In ascending priority: default_config.yaml, --config_path, the ini file's config_path, the ini file, the command
    line. several: whether there are several servers.
    """
    ini_path = options.hyper_parameter_config_dir
    ini = read_parameters(ini_path)
    files = [path for path in (options.config_path, find_recipe(ini.pop("config_path", ""))) if path]
    given = as_parameters(options.args)
    for name in given:
        if name in RESERVED:
            raise UserError(f"--{name} is not allowed, the launcher sets it")
    if options.load_checkpoint_path.strip():
        given.setdefault("load_checkpoint_path", options.load_checkpoint_path)
    given["mindrecord_dir"] = options.mindrecord_dir
    config = compose(files, [(ini_path, ini), (COMMAND_LINE, given)])
    if not config.distribute and config.origin("distribute") in (ini_path, COMMAND_LINE):
        raise UserError(f"distribute is false ({config.origin('distribute')}), but this launcher trains on all "
                        "devices; remove it, or train on one with scripts/run_standalone_train_ascend.sh")
    if several:
        require_outside(config)
    save_path = os.path.relpath(os.path.join("LOG0", config.save_checkpoint_path or config.run_dir))
    in_new_folder = FOLDER.fullmatch(save_path.split(os.sep)[0])
    if config.resume and not config.load_checkpoint_path and in_new_folder:
        raise UserError(f"resume is true ({config.origin('resume')}), but LOAD_CHECKPOINT_PATH is missing; processes "
                        f"start in new folders, LOG<{'rank' if several else 'device'}>/, without checkpoints: name "
                        f"{'a checkpoint' if several else 'LOG0/last'}, or set an absolute run_dir")
    if not config.enable_modelarts:  # ModelArts copies the data first
        check_paths(config, "LOG0")
    # The processes run in other folders, so relative paths, in YAML files too, are made absolute here.
    parameters = {name: as_text(value) for name, value in config.parameters().items()
                  if name not in RESERVED or name in given}
    chosen = {name: value for name, value in parameters.items() if config.origin(name) in (ini_path, COMMAND_LINE)}
    args = [arg for path in files for arg in ("--config_path", os.path.abspath(path))]
    chosen |= absolute_paths(config)
    chosen.setdefault("run_dir", ".")
    return config, args + [arg for name, value in chosen.items() for arg in (f"--{name}", value)]


def require_outside(config):
    """Raise UserError if a path to read is in a process's folder: one server would rename it before others read it."""
    for name, path in absolute_paths(config).items():
        folder = os.path.relpath(path).split(os.sep)[0]
        if FOLDER.fullmatch(folder):
            raise UserError(f"{name} is {path} ({config.origin(name)}), but a launch renames {folder}: with several "
                            f"servers, move it first (mv {folder} earlier), copy it to each server, and use its new "
                            "path")


def backup_names(names):
    """{existing process folder among names: the name it will get from back_up_existing}."""
    return {name: free_name(name) for name in sorted(names) if FOLDER.fullmatch(name) and os.path.lexists(name)}


def relocated(arg, folders):
    """An argument; if it is a path in one of the folders {name: name of its backup}, its path in the backup."""
    if os.path.exists(arg):
        for folder, backup in folders.items():
            for resolve in (os.path.abspath, os.path.realpath):
                if resolve(arg).startswith(os.path.join(resolve(folder), "")):
                    return os.path.abspath(os.path.join(backup, os.path.relpath(resolve(arg), resolve(folder))))
    return arg


def write(path, text):
    """Write a text file. An earlier launch's is replaced by a new file, since a shell may still be reading it.

    Raises UserError if the file is not an earlier launch's.
    """
    path = os.path.realpath(path)
    special = os.path.exists(path) and not os.path.isfile(path)
    if not special:
        require_ours(path, IS_OUR_SCRIPT)
    with contextlib.nullcontext(path) if special else atomic_write(path) as target:
        with open(target, "w", encoding="utf-8") as file:
            file.write(text)


def find_recipe(path):
    """Resolve the ini file's config_path: relative to the current folder, else to the project."""
    in_project = os.path.join(ROOT, path)
    return in_project if path and not os.path.isfile(path) and os.path.isfile(in_project) else path


def training_process(device, device_target, args, device_num, cores):
    """(environment, cores, arguments of train.py) of a device's process."""
    device_id = device.device_id if device_target == "Ascend" else 0
    environment = {"RANK_ID": device.rank, "DEVICE_ID": device.device_id}
    if device_target == "CPU":
        environment.update(MS_ROLE="MS_WORKER", MS_NODE_ID=device.rank)
    own = ["--distribute", "true", "--device_num", str(device_num), "--device_id", str(device_id),
           "--device_target", device_target]
    return environment, ",".join(map(str, cores)), [*args, *own]


def cluster_environment(servers, device_num, port):
    """The environment of all processes of MindSpore's cluster on CPUs; its scheduler runs on rank 0's server."""
    first = next(server for server in servers if server.devices[0].rank == 0)
    if not port:
        port = free_port() if len(servers) == 1 else SCHEDULER_PORT
    return {"MS_WORKER_NUM": device_num, "MS_SCHED_HOST": first.address, "MS_SCHED_PORT": port}


def command_file(common, processes, command, server):
    """The shell script that starts and supervises the processes."""
    lines = [
        "#!/usr/bin/env bash",
        '[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # called by sh',
        f"# The training processes of server {server.server_id}; written by get_distribute_train_cmd.py.",
        f"source {shlex.quote(os.path.join(HERE, 'processes.sh'))}",
        *(f"export {name}={shlex.quote(str(value))}" for name, value in common.items()),
    ]
    for folder, environment, cores, args in processes:
        variables = " ".join(f"{name}={value}" for name, value in environment.items())
        pinned = f"taskset -c {cores} " if cores else ""
        lines += ["", f"start {folder} {variables} -- {pinned}{shlex.join([*command, *args])}"]
    return "\n".join([*lines, "", "supervise", ""])


if __name__ == "__main__":
    errors.run(main)
