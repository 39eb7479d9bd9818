"""Write a rank table (hccl.json, version 1.0) for machines without a cluster manager: for this server, or merged from
the tables of several servers."""
import argparse
import os
from collections.abc import Sequence
from typing import Any

from ..core.backups import contains_mark, require_ours
from ..core.errors import UserError
from ..core.files import write_json
from ..inference.options import OptionParser
from ..launch.rank_table import HCCN_CONF, network_addresses, read_device_ips, read_rank_table

MAX_DEVICE = 9999
# Tests whether a file is a rank table that this script wrote.
OURS = contains_mark('{\n "version": "1.0",\n "server_count": ')
ServerDevices = tuple[str, list[tuple[int, str]]]  # server id, [(device id, device address)]


def main(argv: Sequence[str] | None = None) -> None:
    parser = OptionParser(description=__doc__)
    parser.add_argument("--output", default="hccl.json", help="file to write (default: %(default)s)")
    parser.add_argument("--devices", help="device ids, such as 0-7 or 0,2,4 (default: all in --hccn_conf)")
    parser.add_argument("--server_id",
                        help="address at which other servers reach this one (default: its first address)")
    parser.add_argument("--hccn_conf", default=HCCN_CONF, help="file with the device addresses (default: %(default)s)")
    parser.add_argument("--cpu", action="store_true",
                        help="for training on CPUs: devices are processes without addresses; requires --devices")
    parser.add_argument("--merge", nargs="+", metavar="FILE",
                        help="merge the rank tables of several servers; ranks are numbered in the order given")
    options = parser.parse_args(argv)
    require_ours(options.output, OURS, option="--output")
    if options.merge:
        servers: list[ServerDevices] = [(server.server_id, [(device.device_id, device.ip) for device in server.devices])
                                        for path in options.merge for server in read_rank_table(path)]
    else:
        servers = [this_server(options)]
    table = rank_table(servers)
    write_json(options.output, table, OURS)
    read_rank_table(options.output)
    print(f"{options.output}: servers {table['server_count']}, devices {sum(len(devices) for _, devices in servers)}")


def this_server(options: argparse.Namespace) -> ServerDevices:
    """The server id and devices of this machine. Raises UserError if its devices or their addresses are unknown."""
    addresses = {} if options.cpu else read_device_ips(options.hccn_conf)
    if not addresses and not options.cpu:
        problem = "contains no device addresses" if os.path.isfile(options.hccn_conf) else "does not exist"
        raise UserError(f"{options.hccn_conf} {problem}; set --hccn_conf to the file with the addresses, or --cpu")
    if options.cpu and not options.devices:
        raise UserError("--cpu requires --devices, one per process, such as 0-1 for two")
    devices = parse_devices(options.devices) if options.devices else sorted(addresses)
    missing = [device for device in devices if device not in addresses]
    if missing and not options.cpu:
        raise UserError(f"{options.hccn_conf} has no address for device {missing[0]}; "
                        f"it has devices {', '.join(map(str, sorted(addresses)))}")
    return options.server_id or network_addresses()[0], [(device, addresses.get(device, "")) for device in devices]


def parse_devices(text: str) -> list[int]:
    """Return the device ids of a list such as "0-7" or "0,2,4"."""
    devices: list[int] = []
    for item in text.split(","):
        first, _, last = item.partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()) or max(int(first), int(last or 0)) > MAX_DEVICE:
            raise UserError(f"--devices is {text!r}; expected numbers up to {MAX_DEVICE}, such as 0-7 or 0,2,4")
        devices += range(int(first), int(last or first) + 1)
    return devices


def rank_table(servers: Sequence[ServerDevices]) -> dict[str, Any]:
    """Return the rank table as a dictionary; ranks follow the order of the servers and their devices."""
    rank = 0
    entries = []
    for server_id, devices in servers:
        entry: dict[str, Any] = {"server_id": server_id, "device": [], "host_nic_ip": "reserve"}
        for device_id, ip in devices:
            address = {"device_ip": ip} if ip else {}
            entry["device"].append({"device_id": str(device_id), **address, "rank_id": str(rank)})
            rank += 1
        entries.append(entry)
    return {"version": "1.0", "server_count": str(len(servers)), "server_list": entries, "status": "completed"}
