"""The Triton kernels compiled to machine code for Ampere and Hopper, which needs no GPU: run by test_sparse_triton.py.

In a process of its own, because kernels are defined either for the compiler or for the interpreter.
"""

import inspect

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from distilplace.models.sparse.backends import triton_convolution as host
from distilplace.models.sparse.backends import triton_kernels as kernels

SHARED_LIMIT = 99 * 1024  # bytes a program may use on the smallest Ampere (8.6)
TYPES = {
    "read_rows": "*i32", "write_rows": "*i32", "tiles": "*i32", "offsets": "*i32", "starts": "*i32", "counts": "*i64",
    "row_count": "i32", "pair_count": "i32", "parts": "i32", "result": "*fp32", "partial": "*fp32",
}  # fmt: skip


def build(kernel, capability, element, constants, warps=4, **types):
    """Compile for one GPU generation; pointers are taken as aligned, as torch's are."""
    types = dict.fromkeys(("source", "kernel", "out", "gradient"), f"*{element}") | TYPES | types
    names = list(inspect.signature(kernel.fn).parameters)
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    attributes = {(place,): [["tt.divisibility", 16]] for place, name in enumerate(names) if "*" in signature[name]}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})
    assert built.metadata.shared <= SHARED_LIMIT
    return built.asm["ptx"]


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(("element", "channels"), [("fp32", (64, 128)), ("bf16", (64, 128)), ("fp32", (3, 5))], ids=str)
def test_products(capability, element, channels):
    arithmetic = {"WIDEN": False, "PRECISION": "tf32x3"}
    narrow = element != "fp32"
    constants = {
        **arithmetic, "IN": channels[0], "OUT": channels[1], "BLOCK_PAIRS": 128 if narrow else 64,
        "BLOCK_IN": host._block(channels[0], 64 if narrow else 32), "BLOCK_OUT": host._block(channels[1], 128),
    }  # fmt: skip
    for transposed, listed, atomic in ((False, False, False), (True, True, True)):
        how = {"TRANSPOSED": transposed, "LISTED": listed, "ATOMIC": atomic}
        ptx = build(
            kernels.product_kernel, capability, element, constants | how, 8 if channels[1] == 128 else 4, out="*fp32"
        )
        assert "mma" in ptx
        assert ("atom.global" in ptx) == atomic
    constants = {
        **arithmetic, "IN": channels[0], "OUT": channels[1], "CENTRE": 13, "RUN": host.LONG_RUN,
        "BLOCK_PAIRS": 64 if narrow else 32, "BLOCK_IN": host._block(channels[0], 64),
        "BLOCK_OUT": host._block(channels[1], 64),
    }  # fmt: skip
    assert "mma" in build(kernels.kernel_gradient_kernel, capability, element, constants)


@pytest.mark.parametrize("element", ["fp32", "bf16"])
@pytest.mark.parametrize("capability", [80, 90])
def test_stem_and_sums(capability, element):
    constants = {"OUT": 32, "CENTRE": 62, "BLOCK_ROWS": host.STEM_ROWS, "BLOCK_OUT": 32}
    build(kernels.stem_kernel, capability, element, constants)
    constants = {"WIDTH": 70, "BLOCK_ROWS": host.SEGMENT_ROWS, "BLOCK_WIDTH": 64}
    build(kernels.segment_sum_kernel, capability, element, constants, starts="*i64")
