"""What is read from compiled text: the lines are those of XLA's compilers, shortened."""

from __future__ import annotations

import pytest

from openba_jax.fit import hlo
from openba_jax.fit.costs import costs

# A loop of 6 layers that a GPU's compiler knows the length of: each trip gathers a layer's kernel
# out of a stack and multiplies by it. Then a sum over devices.
GPU = """\
HloModule jit_step, is_scheduled=true, num_partitions=4

%fused_slice (param_0: f32[6,32,64], param_1: s32[]) -> bf16[32,64] {
  %param_0 = f32[6,32,64]{2,1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %dynamic-slice.1 = f32[1,32,64]{2,1,0} dynamic-slice(%param_0, %param_1, %zero, %zero), \
dynamic_slice_sizes={1,32,64}
  %bitcast.1 = f32[32,64]{1,0} bitcast(%dynamic-slice.1)
  ROOT %convert.1 = bf16[32,64]{1,0} convert(%bitcast.1)
}

%gemm_fusion (parameter_0: bf16[16,128], parameter_1: bf16[128,64]) -> bf16[16,64] {
  %parameter_0 = bf16[16,128]{1,0} parameter(0)
  %parameter_1 = bf16[128,64]{1,0} parameter(1)
  ROOT %dot.1 = bf16[16,64]{1,0} dot(%parameter_0, %parameter_1), lhs_contracting_dims={1}, \
rhs_contracting_dims={0}
}

%body (state: (s32[], bf16[16,128], f32[6,32,64])) -> (s32[], bf16[16,128], f32[6,32,64]) {
  %state = (s32[], bf16[16,128]{1,0}, /*index=2*/f32[6,32,64]{2,1,0}) parameter(0)
  %index = s32[] get-tuple-element(%state), index=0
  %x = bf16[16,128]{1,0} get-tuple-element(%state), index=1
  %stack = f32[6,32,64]{2,1,0} get-tuple-element(%state), index=2
  %slice_fusion = bf16[32,64]{1,0} fusion(%stack, %index), kind=kLoop, calls=%fused_slice
  %all-gather-start.1 = (bf16[32,64]{1,0}, bf16[128,64]{1,0}) all-gather-start(%slice_fusion), \
channel_id=1, replica_groups=[1,4]<=[4], dimensions={0}, use_global_device_ids=true
  %all-gather-done.1 = bf16[128,64]{1,0} all-gather-done(%all-gather-start.1)
  %table = s32[2,2]{1,0} constant({
    { 0, 1 },
    { 2, 3 }
})
  %gemm = bf16[16,64]{1,0} fusion(%x, %all-gather-done.1), kind=kCustom, calls=%gemm_fusion
  ROOT %tuple.1 = (s32[], bf16[16,128]{1,0}, f32[6,32,64]{2,1,0}) tuple(%index, %x, %stack)
}

%condition (state.1: (s32[], bf16[16,128], f32[6,32,64])) -> pred[] {
  %state.1 = (s32[], bf16[16,128]{1,0}, f32[6,32,64]{2,1,0}) parameter(0)
  %index.1 = s32[] get-tuple-element(%state.1), index=0
  %limit = s32[] constant(6)
  ROOT %less = pred[] compare(%index.1, %limit), direction=LT
}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

ENTRY %main (p0: bf16[16,128], p1: f32[6,32,64], p2: f32[100]) -> f32[100] {
  %p0 = bf16[16,128]{1,0} parameter(0)
  %p1 = f32[6,32,64]{2,1,0} parameter(1)
  %p2 = f32[100]{0} parameter(2), metadata={op_name="grads (all)"}
  %start = s32[] constant(0)
  %tuple.2 = (s32[], bf16[16,128]{1,0}, f32[6,32,64]{2,1,0}) tuple(%start, %p0, %p1)
  %while.1 = (s32[], bf16[16,128]{1,0}, f32[6,32,64]{2,1,0}) while(%tuple.2), \
condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"6"}}
  ROOT %all-reduce.1 = f32[100]{0} all-reduce(%p2), channel_id=2, \
replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_1'}, to_apply=%add
}
"""

# What a TPU's compiler makes of such things: no known length, products as convolutions, gradients
# scattered inside a fusion, vector memory (S(1)).
TPU = """\
HloModule jit_step, is_scheduled=true

%all-reduce-scatter.1 (input: bf16[128,64]) -> bf16[32,64] {
  %input = bf16[128,64]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.2 = bf16[128,64]{1,0:T(8,128)(2,1)} all-reduce(%input), channel_id=3, \
replica_groups={{0,2,4,6},{1,3,5,7}}, to_apply=%add
  %partition-id.1 = u32[] partition-id()
  %zero.1 = u32[] constant(0)
  ROOT %dynamic-slice.2 = bf16[32,64]{1,0:T(8,128)(2,1)} dynamic-slice(%all-reduce.2, \
%partition-id.1, %zero.1), dynamic_slice_sizes={32,64}
}

%body.1 (state.2: (s32[], bf16[4,16,128], bf16[4,128,64], s32[])) -> (s32[]) {
  %state.2 = (s32[]{:T(128)}, bf16[4,16,128]{2,1,0:T(8,128)(2,1)S(1)}, \
bf16[4,128,64]{2,1,0:T(8,128)(2,1)}, s32[]{:T(128)}) parameter(0)
  %left = bf16[4,16,128]{2,1,0:T(8,128)(2,1)S(1)} get-tuple-element(%state.2), index=1
  %right = bf16[4,128,64]{2,1,0:T(8,128)(2,1)} get-tuple-element(%state.2), index=2
  %index.3 = s32[]{:T(128)} get-tuple-element(%state.2), index=0
  %bound.1 = s32[]{:T(128)} get-tuple-element(%state.2), index=3
  %two = s32[]{:T(128)} constant(2)
  %next = s32[]{:T(128)} add(%index.3, %two)
  %convolution-base-dilated.1 = f32[4,16,64]{2,1,0:T(8,128)} convolution(%left, %right), \
window={size=4 stride=3 lhs_dilate=4}, dim_labels=0bf_0io->0bf
  ROOT %tuple.4 = (s32[]{:T(128)}, bf16[4,16,128]{2,1,0:T(8,128)(2,1)S(1)}, \
bf16[4,128,64]{2,1,0:T(8,128)(2,1)}, s32[]{:T(128)}) tuple(%next, %left, %right, %bound.1)
}

%condition.1 (state.3: (s32[], bf16[4,16,128], bf16[4,128,64], s32[])) -> pred[] {
  %state.3 = (s32[]{:T(128)}, bf16[4,16,128]{2,1,0:T(8,128)(2,1)S(1)}, \
bf16[4,128,64]{2,1,0:T(8,128)(2,1)}, s32[]{:T(128)}) parameter(0)
  %index.2 = s32[]{:T(128)} get-tuple-element(%state.3), index=0
  %bound = s32[]{:T(128)} get-tuple-element(%state.3), index=3
  ROOT %less.1 = pred[]{:T(512)} compare(%index.2, %bound), direction=LT
}

ENTRY %main.1 (q0: bf16[4,16,128], q1: bf16[4,128,64], q2: bf16[128,64]) -> bf16[32,64] {
  %q0 = bf16[4,16,128]{2,1,0:T(8,128)(2,1)S(1)} parameter(0)
  %q1 = bf16[4,128,64]{2,1,0:T(8,128)(2,1)} parameter(1)
  %q2 = bf16[128,64]{1,0:T(8,128)(2,1)} parameter(2)
  %start.1 = s32[]{:T(128)} constant(0)
  %end.1 = s32[]{:T(128)} constant(7)
  %tuple.3 = (s32[]{:T(128)}, bf16[4,16,128]{2,1,0:T(8,128)(2,1)S(1)}, \
bf16[4,128,64]{2,1,0:T(8,128)(2,1)}, s32[]{:T(128)}) tuple(%start.1, %q0, %q1, %end.1)
  %while.2 = (s32[]{:T(128)}, bf16[4,16,128]{2,1,0:T(8,128)(2,1)S(1)}, \
bf16[4,128,64]{2,1,0:T(8,128)(2,1)}, s32[]{:T(128)}) while(%tuple.3), condition=%condition.1, \
body=%body.1
  %kernel = bf16[128,64]{1,0:T(8,128)(2,1)} custom-call(%q2), custom_call_target="tpu_custom_call"
  ROOT %fusion.1 = bf16[32,64]{1,0:T(8,128)(2,1)} fusion(%kernel), kind=kCustom, \
calls=%all-reduce-scatter.1
}
"""


def test_products_in_a_loop_count_as_often_as_it_runs() -> None:
    assert costs(hlo.parse(GPU)).flops == 6 * 2 * 16 * 128 * 64
    # The bound of this loop, 7, is carried into it, and it counts in twos. Each of 4 products of a
    # batch meets one kernel.
    assert costs(hlo.parse(TPU)).flops == 4 * 2 * 4 * 16 * 128 * 64


def test_exchanges_count_what_a_device_receives() -> None:
    found = costs(hlo.parse(GPU))
    layer, summed = 32 * 64 * 2, 100 * 4
    assert found.by_kind() == {
        "all-gather": (6, 6.0 * layer * 3),
        "all-reduce": (1, 2 * summed / 2),
    }
    assert [each.group for each in found.collectives] == [(0, 1, 2, 3), (0, 1)]
    assert found.received == 6 * layer * 3 + summed


def test_a_sum_of_which_each_keeps_a_part_is_a_scatter() -> None:
    found = costs(hlo.parse(TPU))
    assert found.by_kind() == {"reduce-scatter": (1, 128 * 64 * 2 * 3 / 4)}
    assert found.collectives[0].group == (0, 2, 4, 6)
    assert found.kernels == {"tpu_custom_call": 1}


def test_cudnn_computes_half_of_causal_attention() -> None:
    def kernel(target: str, mask: str) -> str:
        scores = (
            '"element_type": "BF16", "dimensions": ["8", "4", "576", "288"], "tuple_shapes": []'
        )
        return f"""\
HloModule jit_step

ENTRY %main (q: bf16[8,576,4,128], k: bf16[8,288,4,128]) -> bf16[8,4,576,128] {{
  %q = bf16[8,576,4,128]{{3,2,1,0}} parameter(0)
  %k = bf16[8,288,4,128]{{3,2,1,0}} parameter(1)
  ROOT %fwd = bf16[8,4,576,128]{{3,1,2,0}} custom-call(%q, %k, %k), custom_call_target="{target}", \
backend_config={{"cudnn_fmha_backend_config": {{"fmha_scale": 0.088, "intermediate_tensor_shape": \
{{{scores}}}, "is_flash_attention": true, "mask_type": "{mask}"}}}}
}}
"""

    product = 2 * 8 * 4 * 576 * 288 * 128
    forward, backward = "__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"
    assert costs(hlo.parse(kernel(forward, "NO_MASK"))).flops == 2 * product
    assert costs(hlo.parse(kernel(forward, "PADDING_CAUSAL"))).flops == product
    assert costs(hlo.parse(kernel(backward, "PADDING"))).flops == 5 * product
    assert costs(hlo.parse(kernel(backward, "CAUSAL"))).flops == 2.5 * product


def test_the_parts_of_an_exchange_are_one() -> None:
    """A TPU's compiler starts one in a fusion, goes on in a loop, ends in a third fusion."""
    part = (
        "%all-gather.{n} = bf16[128,64]{{1,0}} all-gather(%param.{n}), channel_id=9, "
        "replica_groups={{{{0,1}}}}, dimensions={{0}}, backend_config={{"
        '"async_collective_fusion_config":{{"flag_start":"{n}"}}}}'
    )
    fused = "\n".join(
        f"%async_collective_fusion.{n} (param.{n}: bf16[64,64]) -> bf16[128,64] {{\n"
        f"  %param.{n} = bf16[64,64]{{1,0}} parameter(0)\n  ROOT {part.format(n=n)}\n}}\n"
        for n in (1, 2)
    )
    call = (
        "%part.{n} = bf16[128,64]{{1,0}} fusion(%q3.{n}), kind=kCustom, "
        "calls=%async_collective_fusion.{n}"
    )
    given = "%q3.{n} = bf16[64,64]{{1,0}} parameter({n})"
    text = TPU.replace("ENTRY", f"{fused}\nENTRY")
    for line, n in (("  %two = ", 2), ("  %kernel = ", 1)):
        lines = "\n  ".join((given.format(n=n), call.format(n=n)))
        text = text.replace(line, f"  {lines}\n{line}")
    assert costs(hlo.parse(text)).by_kind()["all-gather"] == (1, 64 * 64 * 2)


def test_a_slice_of_a_stack_is_read_and_not_the_stack() -> None:
    # Of the stack a layer in float32; its number; the layer in bfloat16 is written.
    slices = [each for each in costs(hlo.parse(GPU)).work if not each.flops]
    assert [(each.times, each.bytes) for each in slices] == [(6, 32 * 64 * (4 + 2) + 4)]


def test_what_lies_in_vector_memory_is_no_traffic() -> None:
    (products,) = (each for each in costs(hlo.parse(TPU)).work if each.flops)
    assert products.bytes == 4 * 128 * 64 * 2 + 4 * 16 * 64 * 4


@pytest.mark.parametrize(
    ("groups", "first"),
    [
        ("replica_groups={{1,3},{0,2}}", (1, 3)),
        ("replica_groups=[4,2]<=[8]", (0, 1)),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("replica_groups=mesh['data'=2,'fsdp'=4] {'data'}", (0, 4)),
        ("replica_groups=mesh['data'=2,'fsdp'=4] {'data','fsdp'}", tuple(range(8))),
        ("replica_groups=mesh['x'=8] {'x':(2)2}", (0, 2)),
    ],
)
def test_groups_are_read_in_all_spellings(groups: str, first: tuple[int, ...]) -> None:
    text = GPU.replace("replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_1'}", groups)
    assert costs(hlo.parse(text)).collectives[-1].group == first


def test_text_without_an_entry_is_refused() -> None:
    with pytest.raises(ValueError, match="ENTRY"):
        hlo.parse(GPU.replace("ENTRY ", ""))
