"""What MinkowskiEngine 0.5.4's sources need to build today: exact replacements, each of which must match exactly once.

Found by building on Python 3.11, torch 2.11, g++ 12 and nvcc 13.0; the missing Thrust headers are also those reported
in NVIDIA/MinkowskiEngine issues 543, 601 and 638. Every build gets all of them; a CPU build reads no CUDA source.

What was tried: the CPU build, whole, and used. Of the CUDA build (CUDA 13.0) gpu.cu, math_functions_gpu.cu, spmm.cu,
coordinate_map_gpu.cu and convolution_kernel.cu compile for sm_90; the other 13 files were not compiled to the end,
nothing was linked, and none of it has run on a GPU.
"""

from pathlib import Path
from typing import NamedTuple

from distilplace.common.errors import UserError


class Patch(NamedTuple):
    """In ``file`` (relative to the unpacked sources) the text ``old`` becomes ``new``."""

    file: str
    old: str
    new: str


def _abstract_sequence(file: str) -> Patch:
    """Python 3.10 moved ``Sequence`` out of ``collections``."""
    return Patch(file, "from collections import Sequence\n", "from collections.abc import Sequence\n")


# For every build.
PYTHON_PATCHES = (
    _abstract_sequence("MinkowskiEngine/MinkowskiCommon.py"),
    _abstract_sequence("MinkowskiEngine/MinkowskiCoordinateManager.py"),
    _abstract_sequence("MinkowskiEngine/MinkowskiTensorField.py"),
    _abstract_sequence("MinkowskiEngine/utils/quantization.py"),
    Patch(
        "MinkowskiEngine/MinkowskiKernelGenerator.py",
        "from collections import Sequence, namedtuple\n",
        "from collections import namedtuple\nfrom collections.abc import Sequence\n",
    ),
    # It would remove a MinkowskiEngine from whichever environment the first pip on PATH belongs to.
    Patch("setup.py", 'run_command("pip", "uninstall", "MinkowskiEngine", "-y")\n', ""),
)

# For CUDA 12 and later.
CUDA_PATCHES = (
    Patch(
        "src/convolution_kernel.cuh",
        '#include "types.hpp"\n',
        '#include "types.hpp"\n\n#include <thrust/execution_policy.h>\n',
    ),
    Patch(
        "src/coordinate_map_gpu.cu",
        "#include <thrust/sort.h>\n",
        "#include <thrust/remove.h>\n#include <thrust/sort.h>\n#include <thrust/unique.h>\n",
    ),
    Patch(
        "src/spmm.cu",
        "#include <cusparse.h>\n",
        "#include <cusparse.h>\n\n#include <thrust/execution_policy.h>\n#include <thrust/reduce.h>\n"
        "#include <thrust/sort.h>\n",
    ),
    # torch's CUDAUtils.h uses at::Tensor without declaring it.
    Patch(
        "src/spmm.cu",
        "#include <ATen/cuda/CUDAContext.h>\n",
        "#include <ATen/core/Tensor.h>\n#include <ATen/cuda/CUDAContext.h>\n",
    ),
    # An empty base class, gone from CUDA 13.
    Patch(
        "src/coordinate_map_functors.cuh",
        "struct find_coordinate\n    : public thrust::unary_function<uint32_t,\n"
        "                                    thrust::pair<uint32_t, uint32_t>> {\n",
        "struct find_coordinate {\n",
    ),
    Patch(
        "src/3rdparty/concurrent_unordered_map.cuh",
        "#include <thrust/count.h>\n",
        "#include <thrust/count.h>\n#include <thrust/execution_policy.h>\n",
    ),
    # The only caller stores it in a shared_ptr; made from a unique_ptr, g++ 12 finds two __to_address.
    Patch(
        "src/3rdparty/concurrent_unordered_map.cuh",
        "    return std::unique_ptr<Self, std::function<void(Self*)>>{\n",
        "    return std::shared_ptr<Self>{\n",
    ),
    Patch(
        "src/3rdparty/concurrent_unordered_map.cuh",
        "        CUDA_TRY(\n"
        "          cudaMemPrefetchAsync(m_hashtbl_values, m_capacity * sizeof(value_type), dev_id, stream));\n",
        "#if CUDART_VERSION >= 13000\n"
        "        cudaMemLocation const place{cudaMemLocationTypeDevice, {dev_id}};\n"
        "        CUDA_TRY(\n"
        "          cudaMemPrefetchAsync(m_hashtbl_values, m_capacity * sizeof(value_type), place, 0, stream));\n"
        "#else\n"
        "        CUDA_TRY(\n"
        "          cudaMemPrefetchAsync(m_hashtbl_values, m_capacity * sizeof(value_type), dev_id, stream));\n"
        "#endif\n",
    ),
    # MinkowskiEngine carries an old copy of the nvtx3 namespace, CUDA's own headers a new one.
    Patch(
        "setup.py",
        'NVCC_FLAGS += ["--expt-relaxed-constexpr", "--expt-extended-lambda"]\n',
        'NVCC_FLAGS += ["--expt-relaxed-constexpr", "--expt-extended-lambda", "-DCCCL_DISABLE_NVTX"]\n',
    ),
)

PATCHES = (*PYTHON_PATCHES, *CUDA_PATCHES)


def apply_patches(source: Path, patches: tuple[Patch, ...] = PATCHES) -> None:
    """Apply all patches to the unpacked sources in ``source``, or none.

    Raises:
        UserError: a file is absent or does not hold its text exactly once: other sources than 0.5.4's, or patched ones.

    """
    changed: dict[Path, str] = {}
    for patch in patches:
        path = source / patch.file
        if not path.is_file():
            raise UserError(f"{path}: absent; the sources are not those of MinkowskiEngine 0.5.4")
        text = changed.get(path) or path.read_text(encoding="utf-8")
        if (found := text.count(patch.old)) != 1:
            raise UserError(
                f"{path}: the text to patch ({patch.old.strip().splitlines()[0]}) is there {found} times, not once; "
                "the sources are not those of MinkowskiEngine 0.5.4"
            )
        changed[path] = text.replace(patch.old, patch.new)
    for path, text in changed.items():
        path.write_text(text, encoding="utf-8")
