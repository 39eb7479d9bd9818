"""Rank tables, and the command files made from them; no process is started."""
import json
import os
import re
import shlex
import sys

import pytest

from scripts.ascend_distributed_launcher import get_distribute_train_cmd as launcher
from src.commands import make_rank_table
from src.core.errors import UserError
from src.launch.rank_table import Device, find_server, read_device_ips, read_rank_table, share_cores


@pytest.fixture(autouse=True)
def no_paths(monkeypatch):
    """Allow empty MindRecord folders; tests/launch/test_distributed.py tests the check."""
    monkeypatch.setattr(launcher, "check_paths", lambda *_: None)
    monkeypatch.setattr(launcher, "check_images", lambda *_: None)


LAYOUTS = {1: (1, 1), 8: (1, 8), 16: (2, 8), 64: (8, 8)}


def table(servers=2, devices=2, version="1.0", **changes):
    """A rank table as a dictionary: servers 10.0.0.<s>, device addresses 192.168.<s>.<d>."""
    entries = []
    for server in range(servers):
        entry = {"server_id": f"10.0.0.{server}", "device": [
            {"device_id": str(device), "device_ip": f"192.168.{server}.{device}",
             "rank_id": str(server * devices + device)}
            for device in range(devices)
        ]}
        if version == "1.2":
            entry["host_ip"] = f"172.16.0.{server}"
            for device in entry["device"]:
                device["super_device_id"] = device["device_id"]
        entries.append(entry)
    content = {"version": version, "server_count": str(servers), "server_list": entries, "status": "completed"}
    if version == "1.2":
        server_list = [{"server_id": entry["server_id"]} for entry in entries]
        content["super_pod_list"] = [{"super_pod_id": "0", "server_list": server_list}]
    return {**content, **changes}


def write(path, content):
    """Write a table (or a string) to a file; returns its path as a string."""
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


@pytest.mark.parametrize("version", ["1.0", "1.2"])
@pytest.mark.parametrize("count", LAYOUTS)
def test_tables_of_every_size(count, version, tmp_path):
    servers = read_rank_table(write(tmp_path / "t.json", table(*LAYOUTS[count], version)))
    assert [device.rank for server in servers for device in server.devices] == list(range(count))
    last = servers[-1]
    device_id = LAYOUTS[count][1] - 1
    assert last.devices[-1] == Device(device_id, count - 1, f"192.168.{len(servers) - 1}.{device_id}")
    assert last.address == (f"172.16.0.{len(servers) - 1}" if version == "1.2" else last.server_id)


def changed(change):
    """A table of two servers with two devices each after a change."""
    content = table()
    change(content)
    return content


@pytest.mark.parametrize("content, fragment", [
    ("no json", "t.json"), ("[]", "t.json"), ({}, "t.json"),
    (table(status="initializing"), "status.* 'initializing'"), (table(version="2.0"), "version.* 2.0"),
    (table(server_count="3"), "server_count.* 3.* 2"),
    (changed(lambda t: t.pop("server_count")), "server_count"),
    (changed(lambda t: t["server_list"][1]["device"][0].update(rank_id="0")), r"rank_id 0\b"),
    (changed(lambda t: t["server_list"][1]["device"][1].update(rank_id="7")), r"\b3\b"),
    (changed(lambda t: t["server_list"][1]["device"][1].update(device_id="0")), "device_id 0 .* 10.0.0.1"),
    (changed(lambda t: t["server_list"][1].update(server_id="10.0.0.0")), r"server_id 10\.0\.0\.0\b"),
    (changed(lambda t: t["server_list"][1].update(device=[])), "10.0.0.1 "),
    (changed(lambda t: t["server_list"][0]["device"][0].pop("rank_id")), "rank_id"),
])
def test_invalid_tables(content, fragment, tmp_path):
    path = write(tmp_path / "t.json", content)
    with pytest.raises(UserError, match=fragment) as error:
        read_rank_table(path)
    assert path in str(error.value)


def test_a_missing_table():
    with pytest.raises(UserError, match="/nowhere.json"):
        read_rank_table("/nowhere.json")


# ---------------------------------------------------------------- finding this server


@pytest.fixture
def servers(tmp_path):
    return read_rank_table(write(tmp_path / "t.json", table(3, 2, "1.2")))


def test_this_server_by_name(servers):
    assert find_server(servers, "10.0.0.2", "/nowhere", []).server_id == "10.0.0.2"
    assert find_server(servers, "172.16.0.1", "/nowhere", []).server_id == "10.0.0.1"
    with pytest.raises(UserError, match="10.0.0.9.* 10.0.0.0, 10.0.0.1, 10.0.0.2"):
        find_server(servers, "10.0.0.9")


def test_this_server_by_its_device_addresses(servers, tmp_path):
    conf = write(tmp_path / "hccn.conf", "address_0=192.168.1.0\nnetmask_0=255.255.255.0\naddress_1=192.168.1.1\n")
    assert read_device_ips(conf) == {0: "192.168.1.0", 1: "192.168.1.1"}
    # They take precedence over the host's address.
    assert find_server(servers, None, conf, ["10.0.0.2"]).server_id == "10.0.0.1"


def test_this_server_by_its_own_address(servers):
    assert find_server(servers, None, "/nowhere", ["127.0.0.1", "172.16.0.2"]).server_id == "10.0.0.2"


def test_no_server_matches(servers):
    with pytest.raises(UserError, match=r"/nowhere .*127.0.0.1.* 10.0.0.0"):
        find_server(servers, None, "/nowhere", ["127.0.0.1"])
    with pytest.raises(UserError, match="10.0.0.0, 10.0.0.1"):
        find_server(servers, None, "/nowhere", ["10.0.0.0", "10.0.0.1"])


def test_one_server_needs_no_search(tmp_path):
    one = read_rank_table(write(tmp_path / "t.json", table(1, 8)))
    assert find_server(one, None, "/nowhere", []).server_id == "10.0.0.0"


@pytest.mark.parametrize("cores, processes, shares", [
    (8, 2, [[0, 1, 2, 3], [4, 5, 6, 7]]), (7, 2, [[0, 1, 2], [3, 4, 5, 6]]), (3, 2, [[0, 1, 2]] * 2), (192, 8, None),
])
def test_shares_of_cores(cores, processes, shares):
    found = share_cores(list(range(cores)), processes)
    assert shares is None or found == shares
    assert len(found) == processes
    if cores >= 2 * processes:
        assert sorted(core for share in found for core in share) == list(range(cores))
        assert max(map(len, found)) - min(map(len, found)) <= 1


# ---------------------------------------------------------------- the command file


def plan(tmp_path, content, *args, ini="[config]\ntrain_config.batch_size = 4\n", name="cmd.sh"):
    """Write a command file for a table; returns (exported variables, [(folder, variables, cores, command)])."""
    (tmp_path / "records").mkdir(exist_ok=True)
    launcher.main([
        "--mindrecord_dir", str(tmp_path / "records"), "--hccl_config_dir", write(tmp_path / "hccl.json", content),
        "--hyper_parameter_config_dir", write(tmp_path / "hp.ini", ini), "--cmd_file", str(tmp_path / "cmd.sh"),
        "--hccn_conf", "/nowhere", *([] if "--device_target" in args else ["--device_target", "Ascend"]), *args,
    ])
    text = (tmp_path / name).read_text()
    exported = dict(re.findall(r"^export (\w+)=(.*)$", text, re.M))
    processes = []
    for line in re.findall(r"^start (.*)$", text, re.M):
        folder, *rest = shlex.split(line)
        split = rest.index("--")
        command = rest[split + 1:]
        cores = command[2] if command[:2] == ["taskset", "-c"] else ""
        processes.append((folder, dict(arg.split("=", 1) for arg in rest[:split]), cores, command))
    return {name: shlex.split(value)[0] for name, value in exported.items()}, processes


def option(command, name):
    """The last value of an option in a command."""
    return [value for arg, value in zip(command, command[1:]) if arg == f"--{name}"][-1]


@pytest.mark.parametrize("count", LAYOUTS)
def test_a_plan_for_ascend(count, tmp_path):
    servers, devices = LAYOUTS[count]
    first = 0
    for server in range(servers):
        exported, processes = plan(tmp_path, table(servers, devices), "--server_id", f"10.0.0.{server}",
                                   "--hccl_time_out", "77")
        assert exported == {"RANK_TABLE_FILE": str(tmp_path / "hccl.json"), "RANK_SIZE": str(count),
                            "HCCL_CONNECT_TIMEOUT": "77",
                            **({"CENTERNET_SEVERAL_SERVERS": "yes"} if servers > 1 else {})}
        assert len(processes) == devices
        for device, (folder, variables, cores, command) in enumerate(processes):
            assert folder == f"LOG{first + device}"
            assert variables == {"RANK_ID": str(first + device), "DEVICE_ID": str(device)}
            assert cores
            assert command[3:5] == [sys.executable, f"{launcher.ROOT}/train.py"]
            expected = {"distribute": "true", "device_num": str(count), "device_id": str(device),
                        "device_target": "Ascend", "train_config.batch_size": "4",
                        "mindrecord_dir": str(tmp_path / "records")}
            assert {name: option(command, name) for name in expected} == expected
        first += devices


def test_a_plan_for_cpus(tmp_path):
    """The same processes and, on rank 0's server only, the scheduler."""
    exported, processes = plan(tmp_path, table(2, 2), "--server_id", "10.0.0.0", "--device_target", "CPU")
    assert exported["MS_WORKER_NUM"] == "4"
    assert exported["MS_SCHED_HOST"] == "10.0.0.0" and exported["MS_SCHED_PORT"] == "8118"
    assert [folder for folder, *_ in processes] == ["LOG_scheduler", "LOG0", "LOG1"]
    assert processes[0][1] == {"MS_ROLE": "MS_SCHED"}
    assert processes[2][1] == {"RANK_ID": "1", "DEVICE_ID": "1", "MS_ROLE": "MS_WORKER", "MS_NODE_ID": "1"}
    _, processes = plan(tmp_path, table(2, 2), "--server_id", "10.0.0.1", "--device_target", "CPU",
                        "--sched_port", "9")
    assert [(folder, variables["MS_NODE_ID"]) for folder, variables, *_ in processes] == [("LOG2", "2"), ("LOG3", "3")]


def test_the_folders_of_one_server_are_named_by_device(tmp_path):
    content = table(1, 2)
    for device, number in zip(content["server_list"][0]["device"], (4, 7)):
        device["device_id"] = str(number)
    assert [folder for folder, *_ in plan(tmp_path, content)[1]] == ["LOG4", "LOG7"]


def test_servers_that_share_a_folder(tmp_path, monkeypatch):
    """Each has its processes' folders and its command file, and backs up only these from an earlier launch."""
    monkeypatch.chdir(tmp_path)
    for name in ("LOG_scheduler", "LOG0", "LOG1", "LOG2", "LOG3", "LOG4"):
        (tmp_path / name).mkdir()
        for file in ("earlier", "env.log"):
            (tmp_path / name / file).touch()
    cmd_file = str(tmp_path / "cmd{rank}.sh")
    shared = ["--keep_earlier", "--device_target", "CPU"]
    _, first = plan(tmp_path, table(), "--server_id", "10.0.0.0", *shared, "--cmd_file", cmd_file)
    for name in ("LOG_scheduler", "LOG0", "LOG1"):
        (tmp_path / name).mkdir()  # as the command file does
    _, second = plan(tmp_path, table(), "--server_id", "10.0.0.1", *shared, "--cmd_file", cmd_file,
                     name="cmd_rank2.sh")
    assert [folder for folder, *_ in first + second] == ["LOG_scheduler", "LOG0", "LOG1", "LOG2", "LOG3"]
    earlier = sorted(path.parent.name for path in tmp_path.glob("*/earlier"))
    assert earlier == ["LOG0.1", "LOG1.1", "LOG2.1", "LOG3.1", "LOG4", "LOG_scheduler.1"]
    assert (tmp_path / "LOG0").is_dir() and not (tmp_path / "LOG0.2").exists()


def test_several_servers_read_nothing_from_folders_that_a_launch_renames(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "LOG0").mkdir()
    for file in ("c.ckpt", "env.log"):
        (tmp_path / "LOG0" / file).touch()
    for args in (["--load_checkpoint_path", "LOG0/last"],
                 ["--", "--net_config.load_backbone_path", str(tmp_path / "LOG0" / "c.ckpt")]):
        with pytest.raises(UserError, match="LOG0: .*mv LOG0 earlier"):
            plan(tmp_path, table(), "--server_id", "10.0.0.0", *args)
        plan(tmp_path, table(1), "--server_id", "10.0.0.0", *args)
    (tmp_path / "LOG0").rename(tmp_path / "earlier")
    _, processes = plan(tmp_path, table(), "--server_id", "10.0.0.1", "--load_checkpoint_path", "earlier/c.ckpt",
                        "--", "--resume", "true")
    assert option(processes[0][3], "load_checkpoint_path") == str(tmp_path / "earlier" / "c.ckpt")


def test_ini_values_become_options(tmp_path):
    ini = """
; a comment
[config]
config_path = configs/bccd.yaml
dataset_config.input_res_train = [96, 96]
train_config.MultiDecay.learning_rate = 1e-3
eval_config.SOFT_NMS = false
"""
    (tmp_path / "c.ckpt").write_text("")
    _, [(_, _, _, command)] = plan(tmp_path, table(1, 1), "--load_checkpoint_path", str(tmp_path / "c.ckpt"), ini=ini)
    assert option(command, "config_path") == f"{launcher.ROOT}/configs/bccd.yaml"
    assert option(command, "dataset_config.input_res_train") == "[96, 96]"
    assert option(command, "eval_config.SOFT_NMS") == "false"
    assert option(command, "load_checkpoint_path") == str(tmp_path / "c.ckpt")


def test_an_ini_file_of_the_model_zoo(tmp_path, monkeypatch):
    """With distribute and quotation marks; paths are relative to the launcher's folder."""
    monkeypatch.chdir(tmp_path)
    ini = "[config]\ndistribute=true\nepoch_size=130\nload_checkpoint_path=\"\"\nsave_checkpoint_path=\"./\"\n"
    _, [(_, _, _, command)] = plan(tmp_path, table(1, 1), ini=ini)
    assert option(command, "load_checkpoint_path") == "" and option(command, "run_dir") == "."
    assert "--save_checkpoint_path" not in command
    _, [(_, _, _, command)] = plan(tmp_path, table(1, 1), "--", "--run_dir", "exp", ini=ini)
    assert option(command, "run_dir") == "exp" and "--save_checkpoint_path" not in command
    _, [(_, _, _, command)] = plan(tmp_path, table(1, 1), ini=f"{ini}enable_data_sink=true\ndata_sink_steps=-1\n")
    assert "sink" not in " ".join(command)
    (tmp_path / "c.ckpt").write_text("")
    _, [(_, _, _, command)] = plan(tmp_path, table(1, 1), ini="[config]\nload_checkpoint_path = c.ckpt\n")
    assert option(command, "load_checkpoint_path") == str(tmp_path / "c.ckpt")


def test_the_shipped_ini_file_is_valid(tmp_path):
    with open(f"{launcher.HERE}/hyper_parameter_config.ini", encoding="utf-8") as file:
        _, [(_, _, _, command)] = plan(tmp_path, table(1, 1), ini=file.read())
    assert "--config_path" not in command


@pytest.mark.parametrize("ini, fragment", [
    ("[config]\ndevice_id = 3\n", "device_id "), ("[config]\ndevice_num = 3\n", "device_num "),
    ("[config]\nmindrecord_dir = x\n", "mindrecord_dir "), ("[other]\na = 1\n", "section"), ("nonsense", "section"),
    ("[config]\ntrain_config.batch_sice = 3\n", r"\btrain_config.batch_size\b"),
    ("[config]\nepoch_size = many\n", "epoch_size.* 'many'"),
    ("[config]\nconfig_path = nowhere.yaml\n", "nowhere.yaml"),
    ("[config]\ndistribute = false\n", "distribute .*hp.ini"),
])
def test_invalid_parameters(ini, fragment, tmp_path):
    with pytest.raises(UserError, match=fragment):
        plan(tmp_path, table(1, 1), ini=ini)
    assert not (tmp_path / "cmd.sh").exists()


# ---------------------------------------------------------------- tools/make_rank_table.py


def test_tables_of_one_and_of_several_servers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for server in range(2):
        addresses = [f"address_{device}=192.168.{server}.{device}\n" for device in range(8)]
        write(tmp_path / "hccn.conf", "".join(addresses))
        args = ["--server_id", f"10.0.0.{server}", "--devices", "0-3,7", "--output", f"{server}.json"]
        make_rank_table.main(["--hccn_conf", "hccn.conf", *args])
    make_rank_table.main(["--merge", "0.json", "1.json", "--output", "both.json"])
    servers = read_rank_table("both.json")
    assert [server.server_id for server in servers] == ["10.0.0.0", "10.0.0.1"]
    assert [device.device_id for device in servers[1].devices] == [0, 1, 2, 3, 7]
    assert servers[1].devices[4] == Device(7, 9, "192.168.1.7")


def test_a_table_for_cpus_backs_up_the_earlier_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for devices in ("0-1", "0-3"):
        make_rank_table.main(["--cpu", "--devices", devices, "--server_id", "127.0.0.1"])
    assert len(read_rank_table("hccl.json")[0].devices) == 4
    assert len(read_rank_table("hccl.1.json")[0].devices) == 2
    with open("hccl.json", encoding="utf-8") as file:
        table = json.load(file)
    with open("hccl.json", "w", encoding="utf-8") as file:
        json.dump(table, file, indent=4)  # as a cluster manager's tool may
    with pytest.raises(UserError, match="^hccl.json .*--output"):
        make_rank_table.main(["--cpu", "--devices", "0", "--server_id", "127.0.0.1"])
    assert sorted(os.listdir(".")) == ["hccl.1.json", "hccl.json"]


@pytest.mark.parametrize("args, fragment", [
    (["--hccn_conf", "/nowhere"], "/nowhere "), (["--cpu"], "--devices"),
    (["--cpu", "--devices", "a-b"], "expected numbers"), (["--merge", "/nowhere.json"], "/nowhere.json"),
])
def test_mistakes_in_making_a_table(args, fragment, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=fragment):
        make_rank_table.main(args)
    assert list(tmp_path.iterdir()) == []


def args_of(folder, parameters, *args):
    """The processes' shared arguments, for {training option: string} in the ini file and the launcher's arguments."""
    lines = [f"{name} = {value}\n" for name, value in parameters.items()]
    write(folder / "hp.ini", "".join(["[config]\n", *lines]))
    named = ["--mindrecord_dir", "m", "--hyper_parameter_config_dir", "hp.ini", "--hccl_config_dir", "hccl.json"]
    return launcher.training_args(launcher.parse([*named, *args]))[1]


def test_relative_paths_start_in_the_launchers_folder(tmp_path, monkeypatch):
    """Although the processes run in LOG0, LOG1, ..."""
    monkeypatch.chdir(tmp_path)
    for name in ("m", "weights"):
        (tmp_path / name).mkdir()
    (tmp_path / "weights" / "b.ckpt").touch()
    write(tmp_path / "c.yaml", "compile_cache_dir: graphs\nmodelarts_local_path: here\n")
    parameters = {"config_path": "c.yaml", "net_config.load_backbone_path": "weights/b.ckpt",
                  "load_checkpoint_path": "weights/b.ckpt", "profiler_path": "out", "data_url": "bucket/x",
                  "save_checkpoint_path": ""}
    args = args_of(tmp_path, parameters)
    given = dict(zip(args[::2], args[1::2]))
    weights = str(tmp_path / "weights" / "b.ckpt")
    assert given["--net_config.load_backbone_path"] == given["--load_checkpoint_path"] == weights
    assert given["--mindrecord_dir"] == str(tmp_path / "m") and given["--profiler_path"] == "out"
    assert given["--compile_cache_dir"] == str(tmp_path / "graphs")
    assert given["--config_path"] == str(tmp_path / "c.yaml")
    assert "--modelarts_local_path" not in given
    assert given["--data_url"] == "bucket/x" and given["--save_checkpoint_path"] == ""
    parameters = {"enable_modelarts": "true", "load_checkpoint_path": "in/bucket.ckpt"}
    args = args_of(tmp_path, parameters)
    assert "in/bucket.ckpt" in args
