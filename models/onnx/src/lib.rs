//! fieldcast-onnx.
