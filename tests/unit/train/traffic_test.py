# SPDX-License-Identifier: Apache-2.0
"""Exchanges, memory and loops of compiled programs, the bound that follows, and the search of a batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from spatial_core.train import hlo, targets
from spatial_core.train.largest_batch import find_largest
from spatial_core.train.roofline import Ceiling, exchange_rows
from spatial_core.train.traffic import Collective, Traffic, traffic

# As the TPU compiler writes it: a layer of 1 MiB is fetched from the stack of 5, gathered from 4 chips,
# multiplied in fast memory (S(1)); the gradients of all chips are summed once, after the loop.
PROGRAM = """HloModule jit_train_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  %y = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%x, %y)
}

%fetch (p0: f32[5,512,512], p1: s32[]) -> f32[512,512] {
  %p1 = s32[]{:T(128)} parameter(1)
  %p0 = f32[5,512,512]{2,1,0:T(8,128)} parameter(0)
  %one = f32[1,512,512]{2,1,0:T(8,128)} dynamic-slice(%p0, %p1), dynamic_slice_sizes={1,512,512}
  ROOT %layer = f32[512,512]{1,0:T(8,128)} bitcast(%one)
}

%store (p0: f32[5,512,512], p1: f32[512,512], p2: s32[]) -> f32[5,512,512] {
  %p0 = f32[5,512,512]{2,1,0:T(8,128)} parameter(0)
  %p1 = f32[512,512]{1,0:T(8,128)S(1)} parameter(1)
  %p2 = s32[]{:T(128)} parameter(2)
  %row = f32[1,512,512]{2,1,0:T(8,128)} bitcast(%p1)
  ROOT %updated = f32[5,512,512]{2,1,0:T(8,128)} dynamic-update-slice(%p0, %row, %p2)
}

%body (state: (s32[], f32[5,512,512])) -> (s32[], f32[5,512,512]) {
  %state = (s32[]{:T(128)}, f32[5,512,512]{2,1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)S(1)} get-tuple-element(%state), index=0
  %stack = f32[5,512,512]{2,1,0:T(8,128)} get-tuple-element(%state), index=1
  %layer = f32[512,512]{1,0:T(8,128)} fusion(%stack, %i), kind=kLoop, calls=%fetch
  %ag = (f32[512,512]{1,0:T(8,128)}, f32[2048,512]{1,0:T(8,128)}) all-gather-start(%layer), replica_groups=[1,4]<=[4], dimensions={0}
  %all = f32[2048,512]{1,0:T(8,128)} all-gather-done(%ag)
  %fast = f32[512,512]{1,0:T(8,128)S(1)} custom-call(%i), custom_call_target="Made"
  %kept = f32[5,512,512]{2,1,0:T(8,128)} fusion(%stack, %fast, %i), kind=kLoop, calls=%store
  ROOT %next = (s32[]{:T(128)S(1)}, f32[5,512,512]{2,1,0:T(8,128)}) tuple(%i, %kept)
}

%rest (state: (s32[], f32[5,512,512])) -> pred[] {
  %state = (s32[]{:T(128)}, f32[5,512,512]{2,1,0:T(8,128)}) parameter(0)
  ROOT %go = pred[]{:T(512)} constant(true)
}

ENTRY %main (p: f32[5,512,512], g: f32[1000], /*index=2*/h: bf16[500]) -> (f32[1000], bf16[500]) {
  %p = f32[5,512,512]{2,1,0:T(8,128)} parameter(0), metadata={op_name="params[\\'layers\\']"}
  %g = f32[1000]{0:T(1024)} parameter(1)
  %h = bf16[500]{0:T(1024)(128)(2,1)} parameter(2)
  %zero = s32[]{:T(128)S(1)} constant(0)
  %start = (s32[]{:T(128)S(1)}, f32[5,512,512]{2,1,0:T(8,128)}) tuple(%zero, %p)
  %loop = (s32[]{:T(128)S(1)}, f32[5,512,512]{2,1,0:T(8,128)}) while(%start), condition=%rest, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %sums = (f32[1000]{0:T(1024)}, bf16[500]{0:T(1024)(128)(2,1)}) all-reduce(%g, %h), replica_groups={{0,1},{2,3}}, to_apply=%add
}
"""
MIB = 2**20


def test_loops_count_as_often_as_they_run():
    found = traffic(PROGRAM, 4)
    gathers, sums = Collective("all-gather", 5, 5 * MIB, 5 * 3 * MIB), (1000 * 4 + 500 * 2)
    # Two chips sum: each sends half of the array, and half of the result.
    assert set(found.collectives) == {gathers, Collective("all-reduce", 1, sums, sums)}
    assert found.sent == 15 * MIB + sums
    assert found.unknown_loops == 0
    # The TPU compiler leaves the note out; the condition of JAX's loops tells.
    bare = PROGRAM.replace("known_trip_count", "other")
    condition = """%five = s32[]{:T(128)} constant(5)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  ROOT %go = pred[]{:T(512)} compare(%i, %five), direction=LT"""
    told = bare.replace("ROOT %go = pred[]{:T(512)} constant(true)", condition)
    assert traffic(told, 4) == found
    unknown = traffic(bare, 4)
    assert unknown.unknown_loops == 1 and unknown.collectives[1].count == 1


def test_memory_counts_what_is_moved_and_no_more():
    # Of the stack of 5 a layer is read and written as the fetched layer; the gather reads and writes at
    # least that; a layer is put back in place from fast memory.
    each = 2 * MIB + 2 * MIB + MIB
    assert traffic(PROGRAM, 4).memory == 5 * each + 2 * (1000 * 4 + 500 * 2)


def test_programs_of_this_machine_are_read_too():
    def layers(x, kernels):
        return jax.lax.scan(lambda h, k: (jnp.tanh(h @ k), None), x, kernels)[0]

    x, kernels = jnp.zeros((64, 256)), jnp.zeros((7, 256, 256))
    text = jax.jit(layers).lower(x, kernels).compile().as_text()
    found = traffic(text, 1)
    assert found.unknown_loops == 0 and found.collectives == ()
    # Each kernel is read; the activations go in and out of a product and of tanh.
    kernels_read = 7 * 4 * 256 * 256
    assert kernels_read < found.memory < 5 * kernels_read
    runs = hlo.parse(text).runs()
    assert 7 in runs.times.values()


def test_the_bound_is_the_slowest_of_three():
    peaks = targets.find("v5p-8").peaks
    # Two of the six links of a chip lead to chips of a 2x2 grid: 100 GB/s each in one direction.
    assert peaks == targets.Peaks(459e12, 2765e9, 200e9)
    assert targets.find("v5p-128").peaks.sent == 600e9
    assert targets.find("v5e-1").peaks.sent == 0
    reduce = Collective("all-reduce", 1, 10**9, 2 * 10**9)
    ceiling = Ceiling(4.59e12, peaks, Traffic((reduce,), int(55.3e9), 0))
    assert ceiling.times == pytest.approx({"compute": 0.01, "memory": 0.02, "exchange": 0.01})
    assert ceiling.bound == "memory" and ceiling.seconds == pytest.approx(0.02)
    assert ceiling.utilisation == pytest.approx(0.5)
    assert ceiling.rows()[-1][1] == "at least 20 ms, bound by memory; MFU at most 50%"
    assert exchange_rows(ceiling.traffic)[1] == (
        "  all-reduce",
        "1 x, 1,000.0 MB of arrays, 2,000.0 MB sent",
    )
    alone = Ceiling(1e12, targets.find("v5e-1").peaks, Traffic((), 10, 0))
    assert alone.bound == "compute" and alone.utilisation == 1


@pytest.mark.parametrize("bend", [0.0, 3e-4])
def test_the_largest_batch_is_found_with_few_compilations(bend):
    """Bytes that grow evenly with the rows, or faster and faster."""
    asked = []

    def size(rows: int) -> float:
        return 100 + rows + bend * rows**2

    def need(rows: int) -> tuple[bool, float]:
        asked.append(rows)
        return size(rows) <= 1000, size(rows)

    found = find_largest(need, 4096, size(4096), 100, 1000, unit=8, tries=8)
    assert found.tried == tuple(asked) and all(rows % 8 == 0 for rows in asked)
    assert size(found.rows) <= 1000 < size(found.refused)
    assert found.refused - found.rows == 8
    assert len(asked) <= 6
    assert f"{found.rows:,} rows, found with {len(asked)} compilation(s)" in found.text()


def test_a_search_that_ends_early_says_what_it_knows():
    found = find_largest(lambda rows: (rows <= 700, None), 4096, None, 0, 1000, unit=8, tries=3)
    assert found.tried == (2048, 1024, 512) and (found.rows, found.refused) == (512, 1024)
    assert "512 rows of those tried; 1,024 are too many" in found.text()
    nothing = find_largest(lambda rows: (False, None), 64, None, 0, 1000, unit=8, tries=2)
    assert nothing.rows == 0 and "none of those tried, down to 16 rows" in nothing.text()
