"""A model of 70 billion parameters on 256 devices, and programs of many layers."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from mda_jax import merge, methods


HELD = 16 << 30  # bytes of the smallest chip
EXPERTS = 4
NAMES = "linear", "ties", "iso_c", "mda", "tsv"

SCRIPT = """
import json, sys
import jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from mda_jax import engine, merge, methods

LAYERS, WIDTH, INNER, KEYS, WORDS = 80, 8192, 28672, 8 * 128, 128256
mesh = jax.make_mesh((16, 16), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
IN, OUT = ("data", "model"), ("model", "data")

def leaf(shape, spec=()):
    place = NamedSharding(mesh, P(*spec))
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place)

def layer(*stack):
    free = [None] * len(stack)

    def kernel(inputs, outputs, spec):
        return {"kernel": leaf((*stack, inputs, outputs), (*free, *spec))}

    return {
        "q_proj": kernel(WIDTH, WIDTH, IN),
        "k_proj": kernel(WIDTH, KEYS, IN),
        "v_proj": kernel(WIDTH, KEYS, IN),
        "o_proj": kernel(WIDTH, WIDTH, OUT),
        "gate_proj": kernel(WIDTH, INNER, IN),
        "up_proj": kernel(WIDTH, INNER, IN),
        "down_proj": kernel(INNER, WIDTH, OUT),
        "norm_in": {"scale": leaf((*stack, WIDTH))},
        "norm_mlp": {"scale": leaf((*stack, WIDTH))},
    }

name, form, experts = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = {
    "embed_tokens": {"embedding": leaf((WORDS, WIDTH), OUT)},
    "layers": layer(LAYERS) if form == "stack" else [layer() for _ in range(LAYERS)],
    "norm": {"scale": leaf((WIDTH,))},
    "lm_head": {"kernel": leaf((WIDTH, WORDS), IN)},
}
method = getattr(methods, name)()
found = engine.cost(lambda b, e: merge(b, e, method), model, [model] * experts)
size = sum(x.size for x in jax.tree.leaves(model))
print(json.dumps({"size": size, "held": found.held, **found._asdict()}))
"""


def cost(name, form):
    """What the compiler says, for devices that do one thing after the other.

    Of a list of layers, CPUs would run all at once, and their sums as one.
    """
    flags = (
        "--xla_force_host_platform_device_count=256",
        "--xla_cpu_enable_concurrency_optimized_scheduler=false",
        "--xla_disable_hlo_passes=cpu-all-reduce-combiner",
    )
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, name, form, str(EXPERTS)],
        env=os.environ | {"XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=3000,
        check=True,
    )
    return json.loads(result.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "form"),
    [*((name, "stack") for name in NAMES), ("linear", "list"), ("iso_c", "list")],
)
def test_a_model_of_70_billion_parameters_fits(name, form):
    """Base, experts and result, and what the merge needs beside them."""
    found = cost(name, form)
    assert found["size"] == 70_553_706_496
    share = 2 * found["size"] / 256  # bytes of one model that a device holds
    # Norms lie on every device.
    assert share * EXPERTS <= found["arguments"] <= 1.01 * share * (EXPERTS + 1)
    assert found["results"] <= 1.01 * share
    assert found["held"] <= HELD
    assert (found["collectives"] == {}) == (name == "linear")


def exported(name, layers, form):
    leaf = (6, 5)
    if form == "stack":
        tree = {"layers": {"up": {"kernel": (layers, *leaf)}}}
    else:
        tree = {f"h.{i}.up.kernel": leaf for i in range(layers)}
    tree = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        tree,
        is_leaf=lambda x: isinstance(x, tuple),
    )
    merged = jax.jit(lambda b, e: merge(b, e, getattr(methods, name)()))
    text = jax.export.export(merged, platforms=["tpu"])(tree, [tree] * EXPERTS)
    return text.mlir_module().count(" = ")


@pytest.mark.parametrize("name", ["linear", "mda", "tsv", "ties_global"])
def test_the_program_does_not_grow_with_the_layers(name):
    """But, of leaves one by one, by three operations for each of a model.

    They bring it to its bucket and back; surveys read it once more.
    """
    few, many = exported(name, 2, "stack"), exported(name, 16, "stack")
    assert few == many
    few, many = exported(name, 2, "list"), exported(name, 16, "list")
    surveys = len(getattr(getattr(methods, name)(), "surveys", ()))
    assert many - few <= 14 * (1 + surveys) * 3 * (EXPERTS + 1)
