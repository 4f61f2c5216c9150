"""TFRecord without TensorFlow: writing files of records, and what ``tf.train.Example`` messages hold, as arrays.

`archivestream.open` reads the files.
"""

from __future__ import annotations

from archivestream.tfrecord.encoding import encode_example
from archivestream.tfrecord.parsing import ExampleParser, FixedLenFeature, RaggedArray, VarLenFeature
from archivestream.tfrecord.writing import TFRecordWriter

__all__ = ["ExampleParser", "FixedLenFeature", "RaggedArray", "TFRecordWriter", "VarLenFeature", "encode_example"]
