"""The reference's answers in testdata/eplb."""

import json
import os

import numpy

FOLDER = os.path.join(os.environ["PLIMSOLL_SOURCE_DIR"], "testdata", "eplb")


def read_answers(name):
    with open(os.path.join(FOLDER, name), "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    header.pop("__metadata__", None)
    return {
        key: numpy.frombuffer(data[slice(*t["data_offsets"])], "<i4").reshape(t["shape"])
        for key, t in header.items()
    }


def cases():
    """Of each case: name, arguments, load, phy2log, logcnt."""
    tensors = read_answers("answers.safetensors")
    with open(os.path.join(FOLDER, "cases.json")) as file:
        for case in json.load(file):
            name = case.pop("name")
            yield name, case, *(tensors[f"{name}.{key}"] for key in ("load", "phy2log", "logcnt"))


def check_slots_of_experts(test, phy2log, log2phy, logcnt):
    """log2phy is the inverse of phy2log, -1 behind the last copy."""
    for layer, slots in enumerate(log2phy):
        for expert, copies in enumerate(slots):
            count = logcnt[layer, expert]
            test.assertTrue((phy2log[layer, copies[:count]] == expert).all())
            test.assertEqual(len(set(copies[:count].tolist())), count)
            test.assertTrue((copies[count:] == -1).all())


def torch_or_skip(test):
    try:
        import torch
    except ImportError:
        print("skipped: torch is not installed", flush=True)
        test.skipTest("torch is not installed")
    return torch
