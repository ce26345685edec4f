"""Decoder graphs: one file for each `model_type`, over one builder.

- `architectures.read_config`: from config.json to what the shared decoder has to do
- `decoder.build`: the graph
- `tensors.layer_shapes`: the tensors that a checkpoint has
"""
