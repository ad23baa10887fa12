"""The demo's photos as a library that web tests search, and a server of it on a real socket."""

import threading
import time
from contextlib import contextmanager

import pytest

import sightline as sl


def make_demo_library(folder):
    """Index the demo's photos into `folder/library`; the library's path."""
    pytest.importorskip("skimage")
    from sightline.faces.demo.photos import gather_photos, load_photos

    gather_photos(load_photos(), folder / "photos")
    with sl.Library.open(folder / "library", model="starter") as library:
        library.index(folder / "photos")
    return folder / "library"


@contextmanager
def run_on_a_socket(*libraries, **settings):
    """A server in a thread, as `sightline serve` runs it: its config and its address."""
    import dataclasses

    import uvicorn

    from sightline.faces.web.app import create_app
    from sightline.faces.web.config import ServeConfig
    from sightline.faces.web.server import bind, make_settings

    config = ServeConfig(libraries=libraries, **{"port": 0, **settings})
    listener = bind(config)
    config = dataclasses.replace(config, port=listener.getsockname()[1])
    server = uvicorn.Server(make_settings(create_app(config), config))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield config, config.address
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
