"""Asking a transformers vision-language model on this machine."""

from collections.abc import Callable

import torch

from visalign.errors import UserError
from visalign.rewards.vlm.questions import Answer, Failure, Question


class LocalAsker:
    """Greedy answers, one question at a time; digit probabilities come from the logits themselves."""

    def __init__(self, source: str, device: str, max_tokens: int):
        from transformers import AutoModelForImageTextToText, AutoProcessor

        try:
            self.processor = AutoProcessor.from_pretrained(source)
            self.model = AutoModelForImageTextToText.from_pretrained(source, dtype="auto").to(device).eval()
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:160]
            raise UserError(f"reward: transformers could not load {source} ({reason})") from None
        self.device, self.max_tokens = device, max_tokens
        ids = {str(d): self.processor.tokenizer.encode(str(d), add_special_tokens=False) for d in range(10)}
        self.digit_ids = {digit: each[0] for digit, each in ids.items() if len(each) == 1}

    def to(self, device: str) -> None:
        self.device = device
        self.model.to(device)

    @torch.no_grad()
    def ask(self, questions: list[Question], on_answer: Callable[[int, Answer], None]) -> list[Answer | Failure]:
        answers: list[Answer | Failure] = []
        for i, question in enumerate(questions):
            answer = self._one(question)
            on_answer(i, answer)
            answers.append(answer)
        return answers

    def _one(self, question: Question) -> Answer:
        content = [*({"type": "image"} for _ in question.images), {"type": "text", "text": question.text}]
        text = self.processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False,
                                                  add_generation_prompt=True)
        inputs = self.processor(text=[text], images=list(question.images) or None, return_tensors="pt").to(self.device)
        made = self.model.generate(**inputs, max_new_tokens=self.max_tokens, do_sample=False, output_logits=True,
                                   return_dict_in_generate=True)
        tokens = made.sequences[0, inputs["input_ids"].shape[1]:]
        digits = None
        for logits, token in zip(made.logits, tokens.tolist(), strict=True):
            if token in self.digit_ids.values():
                chances = logits[0].float().softmax(-1)
                digits = {digit: chances[place].item() for digit, place in self.digit_ids.items()}
                break
        return Answer(self.processor.tokenizer.decode(tokens, skip_special_tokens=True), digits)
