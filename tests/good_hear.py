"""A HEAR module that keeps the API and the contract, as text; tests spoil it in one way or another."""

GOOD = """
import mmap, random
import torch

kept = []

class Model(torch.nn.Module):
    sample_rate, scene_embedding_size, timestamp_embedding_size = 16000, 64, 64

    def __init__(self):
        super().__init__()
        self.frames = torch.nn.Conv1d(1, 64, 400, 400)
        self.dropout = torch.nn.Dropout(0.1)

    def forward(self, audio):
        padded = torch.nn.functional.pad(audio, (0, 200))
        frames = self.dropout(self.frames(padded[:, None]).abs())
        return frames.mT

def load_model(model_file_path=""):
    model = Model().eval()
    return model

def get_scene_embeddings(audio, model):
    frames = model(audio)
    scenes = frames.mean(1)
    return scenes

def get_timestamp_embeddings(audio, model):
    embeddings = model(audio)
    times = 400e3 / model.sample_rate * (0.5 + torch.arange(embeddings.shape[1]))
    return embeddings, times.expand(len(audio), -1)
"""
