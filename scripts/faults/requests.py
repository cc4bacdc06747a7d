"""Requests with known answers, and what became of one."""
import json
import random
import signal
import time
from dataclasses import dataclass

from faults.processes import MODEL, ROOT, CutOff, Refused, Server


def prompts():
    texts = []
    for path in sorted((ROOT / "demo/prompts").glob("*.txt")):
        texts += [text.strip("\n") for text in path.read_text().split("\n%\n")]
    return texts


def make_requests(count):
    """Short and long prompts and answers, greedy and sampled; the same ones every time."""
    texts = prompts()
    rng = random.Random(1)
    return [{"prompt": " ".join(rng.sample(texts, rng.choice([1, 1, 6]))), "seed": i, "ignore_eos": True,
             "temperature": rng.choice([0, 0.8]), "max_tokens": rng.choice([1, 4, 24, 60]), "logprobs": 0}
            for i in range(count)]


@dataclass
class Outcome:
    """right, wrong, error (by status, with a reason), broken (a stream with an error event at its end), refused (no
    connection), cut (the connection broke), unclear."""
    kind: str
    said: str
    begin: float
    seconds: float


def choice_of(body):
    return json.dumps(json.loads(body)["choices"][0], sort_keys=True)


def reason_in(text):
    try:
        return json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return ""


def judge_stream(body, expected):
    events = [line[6:] for line in body.split("\n") if line.startswith("data: ")]
    if not events:
        return "cut", "the stream ended without a word"
    reason = reason_in(events[-1])
    if events[-1] != "[DONE]" and not reason:
        return "cut", "the stream ended in the middle"
    text = "".join(choice["text"] for event in events[:-1] for choice in json.loads(event)["choices"])
    wanted = json.loads(expected)["text"]
    if text != (wanted[:len(text)] if reason else wanted):
        return "wrong", text
    return ("broken", reason) if reason else ("right", text)


def judge_answer(status, body, stream, expected):
    """(kind, what was said)"""
    if status != 200:
        reason = reason_in(body)
        return "error" if reason and status in (500, 502, 503) else "unclear", f"{status} {reason or repr(body)}"
    if stream:
        return judge_stream(body, expected)
    said = choice_of(body)
    return "right" if said == expected else "wrong", said


def send(server, request, expected, stream):
    """One try of a request, judged."""
    begin = time.monotonic()
    try:
        status, body = server.ask("POST", "/v1/completions", request | {"stream": stream})
        kind, said = judge_answer(status, body, stream, expected)
    except Refused as error:
        kind, said = "refused", str(error)
    except CutOff as error:
        kind, said = "cut", str(error)
    return Outcome(kind, said, begin, time.monotonic() - begin)


def reference_answers(binary, host, port, requests, output):
    """Of an undisturbed server with one rank."""
    server = Server("the reference", host, port, [binary, "serve", "--model", MODEL], output)
    try:
        server.start()
        server.wait_until_ready()
        answers = [server.ask("POST", "/v1/completions", request) for request in requests]
        server.end(signal.SIGTERM)
    finally:
        server.kill_if_alive()
    if any(status != 200 for status, _ in answers):
        raise RuntimeError(f"the undisturbed server answered {answers}")
    return [choice_of(body) for _, body in answers]
