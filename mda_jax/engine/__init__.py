"""The driver: any pytree, inside or outside jit, one compiled call per bucket."""

from mda_jax.engine._cost import (
    ACCELERATORS as ACCELERATORS,
    Accelerator as Accelerator,
    Cost as Cost,
    cost as cost,
)
from mda_jax.engine._merge import merge as merge, merge_by_name as merge_by_name
from mda_jax.engine._mesh import (
    Way as Way,
    in_auto_mode as in_auto_mode,
    way as way,
)
from mda_jax.engine._stream import (
    Place as Place,
    Workspace as Workspace,
    settle as settle,
    stream as stream,
    workspaces as workspaces,
)
