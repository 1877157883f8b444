"""Ports are chosen once; what others hold is left to them and named."""

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_lifecycle.cluster import port_choice
from opencode_lifecycle.cluster.errors import ClusterError, PortTaken
from opencode_lifecycle.cluster.port_choice import CUSTOMARY, FIRST, LAST


def test_people_get_the_customary_ports_where_they_are_free():
    assert port_choice.choose(private=False, free=lambda _: True) == CUSTOMARY


@given(taken=st.sets(st.sampled_from(sorted(CUSTOMARY.values()))))
def test_a_customary_port_that_is_taken_is_replaced_and_the_others_stay(taken: set[int]):
    chosen = port_choice.choose(private=False, free=lambda port: port not in taken)

    for name, customary in CUSTOMARY.items():
        if customary in taken:
            assert FIRST <= chosen[name] <= LAST
        else:
            assert chosen[name] == customary
    assert len(set(chosen.values())) == len(CUSTOMARY)


def test_a_private_cluster_keeps_off_the_customary_ports():
    chosen = port_choice.choose(private=True, free=lambda _: True)

    assert set(chosen.values()).isdisjoint(CUSTOMARY.values())
    assert len(set(chosen.values())) == len(CUSTOMARY)


def test_a_machine_without_a_free_port_is_said():
    with pytest.raises(ClusterError, match="is free"):
        port_choice.choose(private=True, free=lambda _: False)


@given(st.data())
def test_jobs_of_a_private_cluster_get_ports_that_people_do_not_use(data: st.DataObject):
    del data
    first, last = port_choice.choose_dynamic(private=True)

    assert port_choice.CUSTOMARY_DYNAMIC[1] < first < last < 32000


def test_every_taken_port_is_named_with_its_holder():
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = {"nomad_http": one.getsockname()[1], "vault_api": other.getsockname()[1]}

        with pytest.raises(PortTaken) as refused:
            port_choice.require_free(ports)

    for name, port in ports.items():
        assert f"{name} {port}: " in refused.value.message
    assert f"(process {os.getpid()})" in refused.value.message


def test_a_port_that_is_taken_for_udp_alone_is_not_free():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("127.0.0.1", 0))

        assert not port_choice.is_free(held.getsockname()[1])
