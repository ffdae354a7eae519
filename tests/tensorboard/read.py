"""Prints what TensorBoard's own reader finds in a run's folder, as JSON:

    {"scalars": {TAG: [[STEP, VALUE], ...]}, "texts": {TAG: [[STEP, TEXT], ...]},
     "images": {TAG: [[STEP, WIDTH, HEIGHT], ...]}, "hparams": {NAME: VALUE}, "status": NUMBER}
"""

import json
import struct
import sys

from google.protobuf import json_format
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

# 0: all that there are, and no sample of them.
events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "tensors": 0, "images": 0})
events.Reload()
tags = events.Tags()


def session(tag, parse):
    """What the plugin for hyperparameters finds under a tag; None if it is not there."""
    if tag not in tags["tensors"]:
        return None
    return parse(events.SummaryMetadata(tag).plugin_data.content)


def size(event):
    """The step of a picture, and the size that its PNG has, which must be the one that is stated."""
    width, height = struct.unpack(">II", event.encoded_image_string[16:24])
    assert (width, height) == (event.width, event.height)
    return [event.step, width, height]


start = session(metadata.SESSION_START_INFO_TAG, metadata.parse_session_start_info_plugin_data)
end = session(metadata.SESSION_END_INFO_TAG, metadata.parse_session_end_info_plugin_data)
print(
    json.dumps(
        {
            "scalars": {
                tag: [[event.step, event.value] for event in events.Scalars(tag)]
                for tag in tags["scalars"]
            },
            "texts": {
                tag: [
                    [event.step, event.tensor_proto.string_val[0].decode()]
                    for event in events.Tensors(tag)
                ]
                for tag in tags["tensors"]
                if events.SummaryMetadata(tag).plugin_data.plugin_name == "text"
            },
            "images": {
                tag: [size(event) for event in events.Images(tag)] for tag in tags["images"]
            },
            "hparams": start and json_format.MessageToDict(start).get("hparams"),
            "status": end and end.status,
        }
    )
)
