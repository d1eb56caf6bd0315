"""Submitted as a job: the standard `platform`, Ray, and the uploaded package, in the driver and in a task."""

import os
import platform

import ray

import caspi


def where() -> dict[str, str]:
    return {"system": platform.system(), "caspi": caspi.__file__, "folder": os.getcwd()}


def main() -> None:
    ray.init()
    for place, found in (("driver", where()), ("task", ray.get(ray.remote(where).remote(), timeout=60))):
        assert found["system"] == "Linux", found
        assert found["caspi"].startswith(found["folder"]), f"not the uploaded package: {found}"
        print(f"{place} is fine")


if __name__ == "__main__":
    main()
