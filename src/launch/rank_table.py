"""Rank tables (hccl.json, versions 1.0 and 1.2): which process of a distributed run has which device on which server.

Source: the rank table chapters of the CANN documentation. A table is read into plain records; nothing here needs MindSpore.
"""
import json
import os
import re
from dataclasses import dataclass

import psutil

from ..core import errors
from ..core.errors import UserError
from ..core.files import read_text

HCCN_CONF = "/etc/hccn.conf"
VERSIONS = ("1.0", "1.2")


@dataclass
class Device:
    """One device and the process that drives it; ip is its own network address ("" if the table has none)."""

    device_id: int
    rank: int
    ip: str


@dataclass
class Server:
    """A server with its devices, by rank. address is what reaches it: host_ip or server_ip where the table has it, else its id."""

    server_id: str
    address: str
    devices: list


def read_rank_table(path):
    """The servers of a rank table, checked. Raises UserError that says what is wrong."""
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
    with errors.about(path):
        if status != "completed":
            raise UserError(f"its status is {status!r}, not 'completed': whatever writes it is not done")
        if version not in VERSIONS:
            raise UserError(f"its version is {version}; known are {' and '.join(VERSIONS)}")
        if "server_count" not in stated:
            raise UserError("it lacks server_count")
        for name, count in stated.items():
            if count != counts[name]:
                raise UserError(f"{name} is {count}, and it lists {counts[name]}")
        _check(servers)
    return servers


def _server(entry):
    devices = [Device(int(device["device_id"]), int(device["rank_id"]), str(device.get("device_ip", ""))) for device in entry["device"]]
    server_id = str(entry["server_id"])
    address = str(entry.get("host_ip") or entry.get("server_ip") or server_id)
    return Server(server_id, address, sorted(devices, key=lambda device: device.rank))


def _check(servers):
    """Raise UserError unless ids are unique and the ranks are 0, 1, 2, ..."""
    ids = [server.server_id for server in servers]
    if len(set(ids)) < len(ids):
        raise UserError(f"server_id {_first_twice(ids)} is there twice")
    for server in servers:
        devices = [device.device_id for device in server.devices]
        if not devices:
            raise UserError(f"server {server.server_id} has no devices")
        if len(set(devices)) < len(devices):
            raise UserError(f"device_id {_first_twice(devices)} is there twice on server {server.server_id}")
    ranks = sorted(device.rank for server in servers for device in server.devices)
    if len(set(ranks)) < len(ranks):
        raise UserError(f"rank_id {_first_twice(ranks)} is there twice")
    for expected, rank in enumerate(ranks):
        if rank != expected:
            raise UserError(f"its ranks are not contiguous: {expected} is missing")


def _first_twice(values):
    return next(value for index, value in enumerate(values) if value in values[:index])


def find_server(servers, server_id=None, hccn_conf=HCCN_CONF, own_addresses=None):
    """The server that this machine is.

    By server_id if given, else by the device addresses in hccn_conf, else by own_addresses (default: those of the
    network interfaces); a table with one server needs no search. Raises UserError that lists what was looked for.
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
    looked_for = (f"the device addresses of {hccn_conf} ({', '.join(device_ips.values()) or 'none there'}) and this machine's addresses "
                  f"({', '.join(own_addresses) or 'none'})")
    what = f"matches {_names(found)}" if found else "is not in the rank table"
    raise UserError(f"this server {what}: looked for {looked_for} among {_names(servers)}; name it with --server_id")


def _names(servers):
    return ", ".join(server.server_id for server in servers)


def read_device_ips(hccn_conf=HCCN_CONF):
    """{device id: address} of the lines address_<id>=<address> in hccn_conf; empty if there is no such file."""
    if not os.path.isfile(hccn_conf):
        return {}
    text = read_text(hccn_conf, "file of the device addresses (--hccn_conf)")
    return {int(number): ip for number, ip in re.findall(r"^\s*address_(\d+)\s*=\s*(\S+)", text, re.M)}


def network_addresses():
    """The IPv4 and IPv6 addresses of this machine's interfaces, loopback last."""
    found = [
        address.address.split("%")[0]
        for interface in psutil.net_if_addrs().values() for address in interface if address.family.name in ("AF_INET", "AF_INET6")
    ]
    return sorted(dict.fromkeys(found), key=lambda address: address in ("127.0.0.1", "::1"))


def share_cores(cores, processes):
    """Split a list of cores into one share a process, as even as can be.

    A share has at least two cores, else all processes share all: on a single one MindSpore's processes take most of a
    minute to find each other (its threads race for their connection).
    """
    if len(cores) < 2 * processes:
        return [cores] * processes
    bounds = [index * len(cores) // processes for index in range(processes + 1)]
    return [cores[start:end] for start, end in zip(bounds, bounds[1:])]
