"""Prints what TensorBoard's own reader finds in a run's folder, as JSON:

    {"scalars": {TAG: [[STEP, VALUE], ...]}, "texts": {TAG: [[STEP, TEXT], ...]}}
"""

import json
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

# 0: all that there are, and no sample of them.
events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "tensors": 0})
events.Reload()
tags = events.Tags()
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
        }
    )
)
