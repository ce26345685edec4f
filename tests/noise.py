"""How far quantised artifacts may be from the model of their dequantised weights."""

from __future__ import annotations

# Both runtimes round activations to 8 bits in blocks before they meet quantised weights, which the model of
# dequantised weights does not do. These are about twice the largest root mean square errors measured over
# shapes and precisions (onnxruntime 1.32, x86): random models amplify the rounding, trained ones less. That
# ONNX weights themselves are right is tested to 1e-3.
ACTIVATION_NOISE = {
    "output_entropy": 0.08,
    "varentropy": 0.2,
    "top1_probability": 0.025,
    "top1_top2_gap": 0.03,
    "surprisal": 0.3,
    "attention_entropy": 0.14,
    "sink_mass": 0.012,
    "attention_entropy_layer": 0.08,
    "head_dispersion": 0.08,
    "head_divergence": 0.016,
    "attention_renyi2": 0.2,
    "hidden_norm": 0.02,
    "layer_delta": 0.03,
    "layer_cosine": 0.012,
    "token_delta": 0.025,
    "token_cosine": 0.025,
}
