"""Videos: AVI, MP4, MPEG and Matroska through PyAV (FFmpeg), frame by frame."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np

from mednb.datasets.pixels import Raw, sized, there


class Video:
    """The frames of a video, counted in the order in which they are shown.

    Always decoded from the start: seeking by time stamps is off by a frame in files whose stamps are odd, and medical
    clips are short. Ascending frames are decoded once; going back starts again.
    """

    alone = False

    def __init__(self, data: bytes, format: str):
        self.data, self.format = data, format
        self.count: int | None = None
        self.start()

    def start(self) -> None:
        self.decoding, self.at, self.values = enumerate(self.decoded()), -1, None

    def decoded(self) -> Iterator:
        import av

        # The format is said, so that no playlist can send FFmpeg to other files.
        with av.open(io.BytesIO(self.data), format=self.format) as container:
            if not container.streams.video:
                raise ValueError("it holds no pictures, only " + ", ".join(s.type for s in container.streams))
            stream = container.streams.video[0]
            sized(stream.width, stream.height)
            yield from container.decode(stream)

    def frames(self) -> int:
        if self.count is None:
            self.count = sum(1 for _ in self.decoded())
            if not self.count:
                raise ValueError("none of its frames can be decoded")
        return self.count

    def read(self, frame: int, colours: bool) -> Raw:
        if frame < self.at or frame < 0:
            there(frame, self.frames())
            self.start()
        while self.at < frame:
            self.values = None
            self.at, picture = next(self.decoding, (None, None))
            if picture is None:
                self.start()
                there(frame, self.frames())
            if self.at == frame:
                grey = picture.format.name.startswith("gray")
                self.values = picture.to_ndarray(format="gray" if grey else "rgb24")
        return Raw(np.asarray(self.values))
