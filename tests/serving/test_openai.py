"""The official openai client, as it is, and curl against a running server."""

import json
import os
import shutil
import subprocess
import sys
import unittest

from server import ROOT, Server

# scripts/test installs it there.
sys.path[:0] = map(str, (ROOT / "build/openai-client").glob("lib/python3*/site-packages"))
try:
    import openai
except ImportError:
    openai = None
os.environ["NO_PROXY"] = "127.0.0.1"

BEGINNING = "In the beginning God created"
GREEDY = {"model": "model", "temperature": 0}
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who made the heaven?"}]


def client_of(server, key="none"):
    return openai.OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=0, timeout=60)


class WithServer(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server("--ep-size", "2", "--enable-waterfill"))


@unittest.skipUnless(openai, "the openai client is not installed")
class Completions(WithServer):
    def setUp(self):
        client = client_of(self.server)
        self.addCleanup(client.close)
        self.create = client.completions.create
        self.models = client.models

    def test_lists_the_model(self):
        self.assertEqual([model.id for model in self.models.list()], ["model"])

    def test_streams_the_text_that_it_answers_whole(self):
        request = GREEDY | {"prompt": BEGINNING, "max_tokens": 12}
        whole = self.create(**request)
        self.assertEqual(whole.object, "text_completion")
        self.assertEqual(whole.choices[0].finish_reason, "length")
        self.assertEqual(whole.usage.completion_tokens, 12)
        self.assertEqual(whole.usage.total_tokens, whole.usage.prompt_tokens + 12)
        chunks = list(self.create(**request, stream=True, stream_options={"include_usage": True}))
        *pieces, last = chunks
        self.assertEqual("".join(chunk.choices[0].text for chunk in pieces), whole.choices[0].text)
        self.assertEqual(pieces[-1].choices[0].finish_reason, "length")
        self.assertEqual((last.choices, last.usage), ([], whole.usage))
        self.assertTrue(all(chunk.usage is None for chunk in pieces))

    def test_answers_several_times_and_repeats_itself_by_seed(self):
        request = {"model": "model", "prompt": ["Call me", BEGINNING], "n": 2, "seed": 7, "max_tokens": 8,
                   "extra_body": {"top_k": 50, "min_p": 0.01, "ignore_eos": True}}
        first = self.create(**request)
        self.assertEqual([choice.index for choice in first.choices], [0, 1, 2, 3])
        self.assertNotEqual(first.choices[0].text, first.choices[1].text)
        self.assertEqual(self.create(**request).choices, first.choices)
        texts = [""] * 4
        for chunk in self.create(**request, stream=True):
            texts[chunk.choices[0].index] += chunk.choices[0].text
        self.assertEqual(texts, [choice.text for choice in first.choices])

    def test_stops_before_a_stop_string(self):
        request = GREEDY | {"prompt": BEGINNING, "max_tokens": 40}
        text = self.create(**request).choices[0].text
        stopped = self.create(**request, stop=[text[10:14], "never"]).choices[0]
        self.assertEqual(stopped.text, text[: text.index(text[10:14])])
        self.assertEqual(stopped.finish_reason, "stop")

    def test_echoes_the_prompt_with_logprobs(self):
        request = GREEDY | {"prompt": BEGINNING, "max_tokens": 2, "echo": True, "logprobs": 3}
        choice = self.create(**request).choices[0]
        self.assertTrue(choice.text.startswith(BEGINNING))
        logprobs = choice.logprobs
        self.assertEqual("".join(logprobs.tokens), choice.text)
        self.assertEqual(len(logprobs.token_logprobs), len(logprobs.tokens))
        self.assertEqual([len(top) for top in logprobs.top_logprobs], [3] * len(logprobs.tokens))
        self.assertEqual(logprobs.text_offset[0], 0)
        tokens = []
        for chunk in self.create(**request, stream=True):
            tokens += chunk.choices[0].logprobs.tokens if chunk.choices[0].logprobs else []
        self.assertEqual(tokens, logprobs.tokens)


@unittest.skipUnless(openai, "the openai client is not installed")
class Chat(WithServer):
    def setUp(self):
        client = client_of(self.server)
        self.addCleanup(client.close)
        self.create = client.chat.completions.create
        self.stream = client.chat.completions.stream

    def test_streams_the_message_that_it_answers_whole(self):
        request = GREEDY | {"messages": CHAT, "max_completion_tokens": 12, "logprobs": True, "top_logprobs": 2}
        whole = self.create(**request)
        self.assertEqual(whole.object, "chat.completion")
        message, logprobs = whole.choices[0].message, whole.choices[0].logprobs.content
        self.assertEqual(message.role, "assistant")
        self.assertEqual([len(entry.top_logprobs) for entry in logprobs], [2] * len(logprobs))
        self.assertEqual(b"".join(bytes(entry.bytes) for entry in logprobs).decode(), message.content)
        *chunks, last = self.create(**request, stream=True, stream_options={"include_usage": True})
        deltas = [chunk.choices[0].delta for chunk in chunks]
        self.assertEqual([delta.role for delta in deltas], ["assistant"] + [None] * (len(deltas) - 1))
        self.assertEqual("".join(delta.content or "" for delta in deltas), message.content)
        self.assertEqual(last.usage, whole.usage)

    def test_serves_the_clients_own_stream_reader(self):
        # It takes no answer that was cut off.
        request = {"messages": CHAT, "seed": 1, "n": 2, "max_tokens": 64, "stop": [" ", "e", "a"]}
        with self.stream(model="model", **request) as stream:
            texts = [event.delta for event in stream if event.type == "content.delta"]
            choices = stream.get_final_completion().choices
        self.assertEqual(len(choices), 2)
        self.assertEqual(sum(map(len, texts)), sum(len(choice.message.content) for choice in choices))
        self.assertEqual([choice.finish_reason for choice in choices], ["stop", "stop"])

    def test_tells_reasoning_from_content_and_takes_its_answer_back(self):
        request = GREEDY | {"messages": CHAT, "max_tokens": 12}
        thinking = {"extra_body": {"chat_template_kwargs": {"thinking": True}, "ignore_eos": True}}
        message = self.create(**request, **thinking).choices[0].message
        self.assertTrue(message.reasoning_content)
        deltas = [chunk.choices[0].delta for chunk in self.create(**request, **thinking, stream=True)]
        for field in ("reasoning_content", "content"):
            pieces = [getattr(delta, field, None) or "" for delta in deltas]
            self.assertEqual("".join(pieces), getattr(message, field))
        again = [*CHAT, message.model_dump(), {"role": "user", "content": [{"type": "text", "text": "And?"}]}]
        answer = self.create(**GREEDY, messages=again, max_tokens=1)
        self.assertGreater(answer.usage.prompt_tokens, 12)


@unittest.skipUnless(openai, "the openai client is not installed")
class Errors(unittest.TestCase):
    def test_are_those_that_the_client_knows(self):
        flags = ["--api-key", "secret", "--max-running-requests", "1", "--max-queued-requests", "0"]
        with Server(*flags) as server, client_of(server, "secret") as client, client_of(server) as stranger:
            create = client.completions.create
            with self.assertRaises(openai.AuthenticationError) as failed:
                stranger.models.list()
            self.assertEqual((failed.exception.type, failed.exception.code),
                             ("authentication_error", "invalid_api_key"))
            with self.assertRaisesRegex(openai.BadRequestError, "temperature is -1") as failed:
                create(model="model", prompt="x", temperature=-1)
            self.assertEqual(failed.exception.type, "invalid_request_error")
            with self.assertRaisesRegex(openai.BadRequestError, "this server does nothing else"):
                client.chat.completions.create(model="model", messages=CHAT,
                                               tools=[{"type": "function", "function": {"name": "f"}}])
            with self.assertRaises(openai.NotFoundError):
                client.embeddings.create(model="model", input="x")
            endless = create(model="model", prompt="x", max_tokens=4000, stream=True, extra_body={"ignore_eos": True})
            next(iter(endless))
            with self.assertRaises(openai.RateLimitError) as failed:
                create(model="model", prompt="x")
            self.assertEqual(failed.exception.response.headers["retry-after"], "1")
            self.assertEqual(failed.exception.code, "rate_limit_exceeded")
            endless.close()


@unittest.skipUnless(shutil.which("curl"), "curl is not installed")
class Curl(WithServer):
    def curl(self, path, body, *flags):
        command = ["curl", "-sSN", *flags, self.server.url + path, "-H", "Content-Type: application/json", "-d", body]
        return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout.decode()

    def test_reads_answers_and_streams(self):
        body = json.dumps({"prompt": BEGINNING, "max_tokens": 8, "temperature": 0})
        text = json.loads(self.curl("/v1/completions", body))["choices"][0]["text"]
        events = self.curl("/v1/completions", body[:-1] + ', "stream": true}').split("\n\n")
        self.assertEqual(events[-2:], ["data: [DONE]", ""])
        pieces = [json.loads(event.removeprefix("data: "))["choices"][0]["text"] for event in events[:-2]]
        self.assertEqual("".join(pieces), text)
        head, error = self.curl("/v1/completions", "{", "-i").split("\r\n\r\n")
        self.assertTrue(head.startswith("HTTP/1.1 400"), head)
        self.assertIn("the body is not JSON", json.loads(error)["error"]["message"])


if __name__ == "__main__":
    unittest.main()
