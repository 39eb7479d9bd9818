"""Rank tables (hccl.json, versions 1.0 and 1.2): the servers, devices and ranks of a distributed run.

Source: the rank table chapters of the CANN documentation. Nothing here needs MindSpore.
"""
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import psutil

from ..core import errors
from ..core.errors import UserError
from ..core.files import read_text

HCCN_CONF = "/etc/hccn.conf"
VERSIONS = ("1.0", "1.2")
Value = TypeVar("Value")


@dataclass
class Device:
    """A device and the rank of its process; ip is the device's network address, or an empty string."""

    device_id: int
    rank: int
    ip: str


@dataclass
class Server:
    """A server and its devices, by rank; address is host_ip or server_ip if the table has it, else the id."""

    server_id: str
    address: str
    devices: list[Device]


def read_rank_table(path: str) -> list[Server]:
    """Read and check a rank table. Raises UserError with the first mistake."""
    errors.require_file(path, "rank table (RANK_TABLE_FILE)")
    try:
        with open(path, encoding="utf-8") as file:
            table = json.load(file)
        servers = [_server(entry) for entry in table["server_list"]]
        status, version = table.get("status"), str(table.get("version"))
        counts = {"server_count": len(servers)}
        if "para_plane_nic_num" in table:
            counts["para_plane_nic_num"] = sum(len(server.devices) for server in servers)
        stated = {name: int(table[name]) for name in counts if name in table}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path}: not a rank table ({type(error).__name__}: {error})") from error
    with errors.prefix_errors(path):
        if status != "completed":
            raise UserError(f"its status is {status!r}, not 'completed': wait until the file is finished")
        if version not in VERSIONS:
            raise UserError(f"its version is {version}; supported: {', '.join(VERSIONS)}")
        if "server_count" not in stated:
            raise UserError("server_count is missing")
        for name, count in stated.items():
            if count != counts[name]:
                raise UserError(f"{name} is {count}, but {counts[name]} are listed")
        _check(servers)
    return servers


def _server(entry: dict[str, Any]) -> Server:
    devices = [Device(int(device["device_id"]), int(device["rank_id"]), str(device.get("device_ip", "")))
               for device in entry["device"]]
    server_id = str(entry["server_id"])
    address = str(entry.get("host_ip") or entry.get("server_ip") or server_id)
    return Server(server_id, address, sorted(devices, key=lambda device: device.rank))


def _check(servers: list[Server]) -> None:
    """Raise UserError unless ids are unique and the ranks are 0, 1, 2, ..."""
    ids = [server.server_id for server in servers]
    if len(set(ids)) < len(ids):
        raise UserError(f"duplicate server_id {_first_duplicate(ids)}")
    for server in servers:
        devices = [device.device_id for device in server.devices]
        if not devices:
            raise UserError(f"server {server.server_id} has no devices")
        if len(set(devices)) < len(devices):
            raise UserError(f"duplicate device_id {_first_duplicate(devices)} on server {server.server_id}")
    ranks = sorted(device.rank for server in servers for device in server.devices)
    if len(set(ranks)) < len(ranks):
        raise UserError(f"duplicate rank_id {_first_duplicate(ranks)}")
    for expected, rank in enumerate(ranks):
        if rank != expected:
            raise UserError(f"its ranks are not contiguous: {expected} is missing")


def _first_duplicate(values: Sequence[Value]) -> Value:
    return next(value for index, value in enumerate(values) if value in values[:index])


def find_server(servers: list[Server], server_id: str | None = None, hccn_conf: str = HCCN_CONF,
                own_addresses: Sequence[str] | None = None) -> Server:
    """Find this machine's entry in a rank table.

    By server_id if given, else by the device addresses in hccn_conf, else by own_addresses (default: those of the
    network interfaces); the only server of a table is returned without a search. Raises UserError that lists the
    searched ids and addresses.
    """
    if server_id:
        for server in servers:
            if server_id in (server.server_id, server.address):
                return server
        raise UserError(f"the rank table has no server {server_id}; it has {_names(servers)}")
    if len(servers) == 1:
        return servers[0]
    device_ips = read_device_ips(hccn_conf)
    own_addresses = network_addresses() if own_addresses is None else own_addresses
    found = [server for server in servers if set(device_ips.values()) & {device.ip for device in server.devices}]
    found = found or [server for server in servers if {server.server_id, server.address} & set(own_addresses)]
    if len(found) == 1:
        return found[0]
    result = f"matches {_names(found)}" if found else "is not in the rank table"
    raise UserError(f"this server {result}: searched for the device addresses of {hccn_conf} "
                    f"({', '.join(device_ips.values()) or 'none'}) and this machine's addresses "
                    f"({', '.join(own_addresses) or 'none'}) among {_names(servers)}; set --server_id")


def _names(servers: Iterable[Server]) -> str:
    return ", ".join(server.server_id for server in servers)


def read_device_ips(hccn_conf: str = HCCN_CONF) -> dict[int, str]:
    """{device id: address} from the lines address_<id>=<address> of hccn_conf; empty if the file does not exist."""
    if not os.path.isfile(hccn_conf):
        return {}
    text = read_text(hccn_conf, "file with device addresses (--hccn_conf)")
    return {int(number): ip for number, ip in re.findall(r"^\s*address_(\d+)\s*=\s*(\S+)", text, re.M)}


def network_addresses() -> list[str]:
    """The IPv4 and IPv6 addresses of this machine's interfaces, loopback last."""
    found = [
        address.address.split("%")[0]
        for interface in psutil.net_if_addrs().values() for address in interface
        if address.family.name in ("AF_INET", "AF_INET6")
    ]
    return sorted(dict.fromkeys(found), key=lambda address: address in ("127.0.0.1", "::1"))


def share_cores(cores: list[int], processes: int) -> list[list[int]]:
    """Split a list of cores evenly among processes.

    If a share would have fewer than two cores, all processes share all cores: on a single core MindSpore's processes
    take almost a minute to connect, because its threads race for the connection.
    """
    if len(cores) < 2 * processes:
        return [cores] * processes
    bounds = [index * len(cores) // processes for index in range(processes + 1)]
    return [cores[start:end] for start, end in zip(bounds, bounds[1:])]
