"""From checkpoints to artifacts. `edge` comes first: it switches off the telemetry of libraries."""

import edge as edge
