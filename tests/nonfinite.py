"""Whether any operation of a program makes a NaN or an infinity out of finite numbers.

`jax.debug_nans` looks at what a compiled program returns; this looks at every step.
"""

from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax.extend.core import Literal


def watched(f):
    """`(*args) -> (what f returns, whether a step of f was not finite)`."""

    def both(*args):
        program, shape = jax.make_jaxpr(f, return_shape=True)(*args)
        inputs = jax.tree.leaves(args)
        outputs, bad = _run(program.jaxpr, program.consts, inputs)
        return jax.tree.unflatten(jax.tree.structure(shape), outputs), bad

    return both


def _run(jaxpr, consts, inputs):
    names = *jaxpr.constvars, *jaxpr.invars
    values = dict(zip(names, (*consts, *inputs), strict=True))
    bad = jnp.bool_(False)
    for step in jaxpr.eqns:
        given = [x.val if isinstance(x, Literal) else values[x] for x in step.invars]
        made, worse = _RULES.get(step.primitive.name, _bind)(step, given)
        values |= zip(step.outvars, made, strict=True)
        bad |= worse
    outputs = [x.val if isinstance(x, Literal) else values[x] for x in jaxpr.outvars]
    return outputs, bad


def _bind(step, given):
    made = step.primitive.bind(*given, **step.primitive.get_bind_params(step.params))
    made = made if step.primitive.multiple_results else [made]
    return made, _finite(given) & ~_finite(made)


def _finite(arrays):
    floats = (x for x in arrays if jnp.issubdtype(jnp.result_type(x), jnp.floating))
    each = (jnp.isfinite(x).all() for x in floats)
    return reduce(jnp.logical_and, each, jnp.bool_(True))


def _inner(program, inputs):
    return _run(
        getattr(program, "jaxpr", program), getattr(program, "consts", ()), inputs
    )


def _call(step, given):
    names = "jaxpr", "call_jaxpr", "call"
    return _inner(next(step.params[n] for n in names if n in step.params), given)


def _scan(step, given):
    p = step.params
    fixed, carried = p["num_consts"], p["num_carry"]
    consts, start, rows = (
        given[:fixed],
        given[fixed:][:carried],
        given[fixed + carried :],
    )

    def body(state, row):
        out, worse = _inner(p["jaxpr"], [*consts, *state[0], *row])
        return (out[:carried], state[1] | worse), out[carried:]

    options = {"length": p["length"], "reverse": p["reverse"]}
    (end, bad), ys = jax.lax.scan(body, (start, jnp.bool_(False)), rows, **options)
    return [*end, *ys], bad


def _while(step, given):
    """Under `vmap` each row goes on until its own test fails."""
    p = step.params
    tested, fixed = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]

    def more(state):
        (found,), _ = _inner(p["cond_jaxpr"], [*given[:tested], *state[0]])
        return found

    def body(state):
        made, worse = _inner(p["body_jaxpr"], [*given[tested:fixed], *state[0]])
        on = more(state)
        each = zip(made, state[0], strict=True)
        kept = [
            jnp.where(on.reshape(on.shape + (1,) * (x.ndim - on.ndim)), x, y)
            for x, y in each
        ]
        return kept, state[1] | worse

    start = given[fixed:], jnp.bool_(False)
    return jax.lax.while_loop(lambda state: more(state).any(), body, start)


def _cond(step, given):
    branches = [partial(_branch, each) for each in step.params["branches"]]
    return jax.lax.switch(given[0], branches, *given[1:])


def _branch(program, *inputs):
    return _inner(program, inputs)


_CALLS = "jit", "closed_call", "checkpoint"
_CALLS += "custom_jvp_call", "custom_vjp_call", "custom_vmap_call"
_RULES = {"scan": _scan, "while": _while, "cond": _cond} | dict.fromkeys(_CALLS, _call)
