"""What a library says of given features: run in its own environment by `geometry_values`.

    python -P geometry_values_worker.py PEER DATA.npz [CHECKOUT]

prints a line of JSON: version, and a list of [call, data set, value or error]. Calls are written as
a user of the library would write them, x and y float64 arrays [n rows, columns]. Libraries without
a package come as a checkout of their repository; of what those import beside the functions called
here, some is absent and stood in for by the few lines below.
"""

import importlib
import importlib.util
import json
import sys
from importlib import metadata
from pathlib import Path

import numpy as np

# Neighbors of a row, in every library.
K = 5
CALIBRATED = 99


def netrep(_):
    from netrep.metrics import LinearCKA, LinearMetric, PermutationMetric

    def linear(alpha, how):
        return lambda x, y: LinearMetric(alpha=alpha, score_method=how).fit_score(x, y)

    def units(how):
        return lambda x, y: PermutationMetric(score_method=how).fit_score(x, y)

    return "netrep", {
        "LinearMetric(alpha=1, score_method='angular').fit_score": linear(1.0, "angular"),
        "LinearMetric(alpha=1, score_method='euclidean').fit_score": linear(1.0, "euclidean"),
        "LinearMetric(alpha=0, score_method='angular').fit_score": linear(0.0, "angular"),
        "LinearCKA().score": lambda x, y: LinearCKA().score(x, y),
        "PermutationMetric(score_method='angular').fit_score": units("angular"),
    }


def ckatorch(_):
    import torch
    from ckatorch import cka_base, cka_batch

    def base(**options):
        return lambda x, y: cka_base(torch.tensor(x), torch.tensor(y), **options)

    def halves(x, y):
        return cka_batch(*(torch.tensor(z).reshape(2, -1, z.shape[1]) for z in (x, y)))

    return "ckatorch", {
        "cka_base(x, y)": base(),
        "cka_base(x, y, method='hsic')": base(method="hsic"),
        "cka_base(x, y, unbiased=True)": base(unbiased=True),
        "cka_base(x, y, kernel='rbf')": base(kernel="rbf"),
        "cka_batch of two halves": halves,
    }


def torch_cka(_):
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset
    from torch_cka import CKA

    def compare(x, y, batch):
        # In float32, its default, the sixth digit is noise.
        torch.set_default_dtype(torch.float64)
        loaders = [DataLoader(TensorDataset(torch.tensor(z)), batch) for z in (x, y)]
        models = [nn.Sequential(nn.Identity()) for _ in range(2)]
        cka = CKA(*models, "a", "b", ["0"], ["0"])
        cka.compare(*loaders)
        return cka.export()["CKA"]

    return "torch-cka", {
        "CKA.compare of one batch": lambda x, y: compare(x, y, len(x)),
        "CKA.compare of two halves": lambda x, y: compare(x, y, len(x) // 2),
    }


def repsim(_):
    import torch
    from repsim import compare

    names = ("angular_cka", "angular_shape_metric", "euclidean_shape_metric", "riemannian")

    def call(name):
        return lambda x, y: compare(torch.tensor(x), torch.tensor(y), method=name)

    return "repsim", {f"compare(x, y, method='{name}')": call(name) for name in names}


def calibrated_similarity(_):
    import torch
    from calibrated_similarity import calibrate

    def cka(x, y):
        x, y = x - x.mean(0), y - y.mean(0)
        return (x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())

    def least(x, y):
        return calibrate(torch.tensor(x), torch.tensor(y), cka, K=CALIBRATED)[1]

    return "calibrated-similarity", {f"calibrate(x, y, cka, K={CALIBRATED})[1]": least}


def rsatoolbox(_):
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm import calc_rdm, compare

    def rdms(kind, how):
        def call(x, y):
            first, second = (calc_rdm(Dataset(z), method=kind) for z in (x, y))
            return compare(first, second, method=how)

        return call

    def crossnobis(draws):
        n, r, d = draws.shape
        described = {"image": np.repeat(np.arange(n), r), "draw": np.tile(np.arange(r), n)}
        data = Dataset(draws.reshape(n * r, d), obs_descriptors=described)
        return calc_rdm(data, method="crossnobis", descriptor="image", cv_descriptor="draw")

    def repeated(how):
        return lambda x, y: compare(crossnobis(x), crossnobis(y), method=how)

    kinds = {"euclidean": ("corr", "spearman", "tau-b", "tau-a", "cosine", "cosine_cov")}
    kinds["correlation"] = ("corr", "spearman")
    calls = {
        f"compare(calc_rdm '{kind}', '{how}')": rdms(kind, how)
        for kind, hows in kinds.items()
        for how in hows
    }
    calls["draws: mean of calc_rdm 'crossnobis'"] = lambda x, y: crossnobis(
        x
    ).dissimilarities.mean()
    calls["draws: compare(calc_rdm 'crossnobis', 'corr')"] = repeated("corr")
    calls["draws: compare(calc_rdm 'crossnobis', 'cosine')"] = repeated("cosine")
    return "rsatoolbox", calls


def dcor(_):
    import dcor as package

    names = ("distance_correlation", "distance_correlation_sqr", "u_distance_correlation_sqr")
    return "dcor", {f"{name}(x, y)": getattr(package, name) for name in names}


def pot(_):
    import ot

    def units(x):
        x = x - x.mean(0)
        return x / np.linalg.norm(x) * np.sqrt(x.shape[1])

    def matched(x, y):
        return ot.emd2([], [], ot.dist(units(x).T, units(y).T, metric="sqeuclidean"))

    def correlated(x, y):
        cost = ot.dist(units(x).T, units(y).T, metric="correlation")
        return 1 - ot.emd2([], [], cost)

    def gromov(x, y):
        first, second = (ot.dist(z, z, metric="euclidean") for z in (x, y))
        first, second = (z / np.sqrt(np.mean(z**2)) for z in (first, second))
        return ot.gromov.gromov_wasserstein2(first, second)

    return "POT", {
        "emd2 of squared distances of centered, scaled units": matched,
        "1 - emd2 of correlation distances of units": correlated,
        "gromov.gromov_wasserstein2 of distances of mean square 1": gromov,
    }


def faiss(_):
    import faiss as package

    def neighbors(z):
        z = np.ascontiguousarray(z - z.mean(0), dtype=np.float32)
        index = package.IndexFlatL2(z.shape[1])
        index.add(z)
        return index.search(z, K + 1)[1][:, 1:]

    def mutual(x, y):
        pairs = zip(neighbors(x), neighbors(y), strict=True)
        return np.mean([len(set(a) & set(b)) for a, b in pairs]) / K

    return "faiss-cpu", {f"IndexFlatL2.search, {K} neighbors in common": mutual}


def scikit_dimension(_):
    import skdim

    return "scikit-dimension", {
        "id.TwoNN().fit(x).dimension_": lambda x, y: skdim.id.TwoNN().fit(x).dimension_,
        f"id.MLE(K={K}).fit(x).dimension_": lambda x, y: skdim.id.MLE(K=K).fit(x).dimension_,
        f"id.MLE().fit(x, n_neighbors={K}).dimension_": lambda x, y: (
            skdim.id.MLE().fit(x, n_neighbors=K).dimension_
        ),
    }


def dadapy(_):
    from dadapy import Data

    def twonn(x, y):
        return Data(x).compute_id_2NN(algorithm="base", fraction=0.9)[0]

    def gride(x, y):
        return Data(x).return_id_scaling_gride(range_max=4)[0][1]

    return "dadapy", {
        "compute_id_2NN(algorithm='base', fraction=0.9)": twonn,
        "return_id_scaling_gride(range_max=4), second": gride,
    }


def scikit_learn(_):
    from sklearn.cross_decomposition import CCA
    from sklearn.linear_model import LinearRegression
    from sklearn.metrics import r2_score

    def cca(x, y):
        k = min(x.shape[1], y.shape[1])
        a, b = CCA(n_components=k, max_iter=100_000, tol=1e-14).fit_transform(x, y)
        return np.mean([np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(k)])

    def r2(x, y):
        found = LinearRegression().fit(x, y).predict(x)
        return r2_score(y, found, multioutput="variance_weighted")

    return "scikit-learn", {
        "CCA(n_components=min(d, e)), mean correlation": cca,
        "r2_score(LinearRegression, 'variance_weighted')": r2,
    }


def scipy(_):
    from scipy.spatial import procrustes
    from scipy.spatial.distance import pdist
    from scipy.stats import kendalltau, pearsonr, spearmanr

    def rsa(how):
        return lambda x, y: how(pdist(x), pdist(y))[0]

    def disparity(x, y):
        wide = max(x.shape[1], y.shape[1])
        return procrustes(*(np.pad(z, ((0, 0), (0, wide - z.shape[1]))) for z in (x, y)))[2]

    return "scipy", {
        "pearsonr(pdist(x), pdist(y))": rsa(pearsonr),
        "spearmanr(pdist(x), pdist(y))": rsa(spearmanr),
        "kendalltau(pdist(x), pdist(y))": rsa(kendalltau),
        "spatial.procrustes disparity": disparity,
    }


PEERS = {
    "netrep": netrep,
    "ckatorch": ckatorch,
    "torch-cka": torch_cka,
    "repsim": repsim,
    "calibrated-similarity": calibrated_similarity,
    "rsatoolbox": rsatoolbox,
    "dcor": dcor,
    "pot": pot,
    "faiss": faiss,
    "scikit-dimension": scikit_dimension,
    "dadapy": dadapy,
    "scikit-learn": scikit_learn,
    "scipy": scipy,
}


def from_checkouts():
    """The libraries without a package: their file lies beside this one."""
    path = Path(__file__).with_name("geometry_values_checkouts.py")
    spec = importlib.util.spec_from_file_location("geometry_values_checkouts", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CHECKOUTS


def attempt(call, *arrays):
    """The value of a call as a float, or what it raises."""
    try:
        value = call(*(z.copy() for z in arrays))
        return float(np.asarray(value).squeeze())
    # Whatever a library raises is its answer.
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:160]


def main(arguments, answer):
    name, data = arguments[0], np.load(arguments[1])
    peers = {**PEERS, **from_checkouts()} if len(arguments) > 2 else PEERS
    distribution, calls = peers[name](Path(arguments[2]) if len(arguments) > 2 else None)
    version = metadata.version(distribution) if isinstance(distribution, str) else ""
    kinds = sorted({key.split("/")[0] for key in data.files})
    values = []
    for call, function in calls.items():
        for kind in kinds:
            # Draws are [n, r, d]: for calls that say so.
            if call.startswith("draws: ") == (kind == "draws"):
                found = attempt(function, data[f"{kind}/x"], data[f"{kind}/y"])
                values.append([call, kind, found])
    print(json.dumps({"version": version, "values": values}), file=answer)


if __name__ == "__main__":
    # What a library prints would stand before the answer.
    answer, sys.stdout = sys.stdout, sys.stderr
    main(sys.argv[1:], answer)
