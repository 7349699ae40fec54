"""Plain torch: a TopK autoencoder with a dense code, autograd and Adam, nothing else."""

import torch
import torch.nn.functional as F

PACKAGE = None
AHEAD = 0


def train(job, rows):
    first = torch.randn(job.m, rows.width, generator=torch.Generator().manual_seed(job.seed))
    decoder = F.normalize(first, dim=1).requires_grad_()
    encoder = decoder.detach().clone().requires_grad_()
    encoder_bias = torch.zeros(job.m, requires_grad=True)
    decoder_bias = torch.zeros(rows.width, requires_grad=True)
    weights = {
        "encoder": encoder,
        "encoder_bias": encoder_bias,
        "decoder": decoder,
        "decoder_bias": decoder_bias,
    }

    def reconstruct(x):
        p = F.linear(x, encoder, encoder_bias).relu()
        top = p.topk(job.k, dim=1)
        code = torch.zeros_like(p).scatter(1, top.indices, top.values)
        return code @ decoder + decoder_bias

    optimizer = torch.optim.Adam(list(weights.values()), lr=job.lr)
    for x in rows:
        loss = (x - reconstruct(x)).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            gradient = decoder.grad
            assert gradient is not None
            gradient -= (gradient * decoder).sum(1, keepdim=True) * decoder
            optimizer.step()
            decoder /= decoder.norm(dim=1, keepdim=True)
    return weights, reconstruct
