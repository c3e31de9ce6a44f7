"""Writing of grayscale frames as H.264."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

OPTIONS = {
    "preset": "fast",
    "threads": "1",  # workers fill the cores
    "x264-params": "mbtree=0",  # with it x264 reads memory it never wrote: no two files are equal
}


def write_video(path: Path, frames: np.ndarray, fps: int, crf: int = 18) -> None:
    """Write uint8 frames [T, H, W] as an H.264 mp4, whatever the suffix of `path`.

    crf: x264's quality; lower is better and larger.
    """
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options=OPTIONS | {"crf": str(crf)})
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(stream.encode())
