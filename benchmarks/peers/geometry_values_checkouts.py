"""Libraries without a package, from checkouts of their repositories; see geometry_values_worker."""

import sys
import types

import numpy as np

K = 5


def stand_in(name, **members):
    """A module that is imported but not needed, or needed for these few members."""
    module = sys.modules[name] = types.ModuleType(name)
    vars(module).update(members)
    return module


def edit_distance(a, b):
    """Levenshtein, as torchaudio.functional.edit_distance."""
    row = list(range(len(b) + 1))
    for i, p in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, q in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (p != q))
    return row[-1]


def platonic_rep(folder):
    functional = types.SimpleNamespace(edit_distance=edit_distance)
    stand_in("torchaudio", functional=functional)
    stand_in("torchaudio.functional", edit_distance=edit_distance)
    sys.path.insert(0, str(folder))
    import torch
    from metrics import AlignmentMetrics

    def call(name, unit=False, **options):
        def run(x, y):
            torch.manual_seed(0)
            np.random.seed(0)  # noqa: NPY002
            pair = [torch.tensor(z) for z in (x, y)]
            if unit:
                pair = [torch.nn.functional.normalize(z, dim=-1) for z in pair]
            return AlignmentMetrics.measure(name, *pair, **options)

        return run

    calls = {
        f"measure('{name}', unit rows, topk={K})": call(name, unit=True, topk=K)
        for name in ("mutual_knn", "cycle_knn", "lcs_knn", "edit_distance_knn", "cknna")
    }
    calls[f"measure('cknna', x, y, topk={K})"] = call("cknna", topk=K)
    calls["measure('cka', x, y)"] = call("cka")
    calls["measure('unbiased_cka', x, y)"] = call("unbiased_cka")
    calls["measure('svcca', x, y, cca_dim=10)"] = call("svcca", cca_dim=10)
    return None, calls


def resi(folder):
    quiet = types.SimpleNamespace(info=lambda *a: None, debug=lambda *a: None)
    stand_in("loguru", logger=quiet)
    sys.path.insert(0, str(folder))
    # Its __init__ imports four packages that are on no index.
    stand_in("repsim").__path__ = [str(folder / "repsim")]
    stand_in("repsim.measures").__path__ = [str(folder / "repsim" / "measures")]
    from repsim.measures import (
        cca,
        cka,
        correlation_match,
        distance_correlation,
        gulp,
        linear_regression,
        nearest_neighbor,
        procrustes,
        rsa,
    )

    def nd(function, **options):
        return lambda x, y: function(x, y, "nd", **options)

    knn = nearest_neighbor.jaccard_similarity
    similar = rsa.representational_similarity_analysis
    scaled = procrustes.orthogonal_procrustes_centered_and_normalized
    angular = procrustes.orthogonal_angular_shape_metric_centered
    return None, {
        "centered_kernel_alignment": nd(cka.centered_kernel_alignment),
        "svcca": nd(cca.svcca),
        "pwcca": nd(cca.pwcca),
        "hard_correlation_match": nd(correlation_match.hard_correlation_match),
        "distance_correlation": nd(distance_correlation.distance_correlation),
        "gulp": nd(gulp.gulp),
        "linear_reg": nd(linear_regression.linear_reg),
        f"jaccard_similarity(k={K}, inner='euclidean')": nd(knn, k=K, inner="euclidean", n_jobs=1),
        "orthogonal_procrustes_centered_and_normalized": nd(scaled),
        "orthogonal_angular_shape_metric_centered": nd(angular),
        "representational_similarity_analysis": nd(similar),
        "representational_similarity_analysis(inner='euclidean')": nd(similar, inner="euclidean"),
    }


def sim_metric(folder):
    sys.path.insert(0, str(folder / "dists"))
    import scoring

    def centered(z):
        z = z - z.mean(0)
        return (z / np.linalg.norm(z)).T

    def of_cca(function):
        return lambda x, y: function(scoring.cca_decomp(centered(x), centered(y))[1])

    def pwcca(x, y):
        a, b = centered(x), centered(y)
        _, rho, _, transformed, _ = scoring.cca_decomp(a, b)
        return scoring.pwcca_dist(a, rho, transformed)

    return None, {
        "mean_cca_corr": of_cca(scoring.mean_cca_corr),
        "mean_sq_cca_corr": of_cca(scoring.mean_sq_cca_corr),
        "pwcca_dist": pwcca,
        "lin_cka_dist": lambda x, y: scoring.lin_cka_dist(centered(x), centered(y)),
        "procrustes": lambda x, y: scoring.procrustes(centered(x), centered(y)),
    }


def svcca(folder):
    sys.path.insert(0, str(folder))
    import cca_core
    import pwcca

    def coefficients(x, y):
        found = cca_core.get_cca_similarity(x.T, y.T, epsilon=1e-10, verbose=False)
        return np.mean(found["cca_coef1"])

    return None, {
        "mean of get_cca_similarity cca_coef1": coefficients,
        "compute_pwcca(x.T, y.T)[0]": lambda x, y: pwcca.compute_pwcca(x.T, y.T)[0],
        "compute_pwcca of centered columns": lambda x, y: pwcca.compute_pwcca(
            (x - x.mean(0)).T, (y - y.mean(0)).T
        )[0],
    }


def representation_similarity(folder):
    sys.path.insert(0, str(folder))
    import demo as google

    def gram(kernel, **options):
        return lambda x, y: google.cka(kernel(x), kernel(y), **options)

    return None, {
        "cka(gram_linear)": gram(google.gram_linear),
        "cka(gram_linear, debiased=True)": gram(google.gram_linear, debiased=True),
        "cka(gram_rbf(threshold=1))": gram(google.gram_rbf),
        "feature_space_linear_cka": google.feature_space_linear_cka,
        "feature_space_linear_cka(debiased=True)": lambda x, y: google.feature_space_linear_cka(
            x, y, debiased=True
        ),
        "cca": google.cca,
        "cca of centered columns": lambda x, y: google.cca(x - x.mean(0), y - y.mean(0)),
    }


def anatome(folder):
    # Its hooks need torchvision; the distances do not.
    extraction = {"get_graph_node_names": None, "create_feature_extractor": None}
    for name in ("torchvision", "torchvision.models"):
        stand_in(name)
    stand_in("torchvision.models.feature_extraction", **extraction)
    stand_in("anatome").__path__ = [str(folder / "anatome")]
    import torch
    from anatome import distance

    def call(function, *options):
        def centered(z):
            return torch.tensor(z - z.mean(0))

        return lambda x, y: function(centered(x), centered(y), *options)

    return None, {
        "svcca_distance(x, y, 0.99, 'svd')": call(distance.svcca_distance, 0.99, "svd"),
        "pwcca_distance(x, y, 'svd')": call(distance.pwcca_distance, "svd"),
        "linear_cka_distance(x, y, False)": call(distance.linear_cka_distance, False),
        "linear_cka_distance(x, y, True)": call(distance.linear_cka_distance, True),
        "orthogonal_procrustes_distance": call(distance.orthogonal_procrustes_distance),
    }


def rtd(folder):
    from ripser import ripser

    def run(_, lower):
        """ripserplusplus.run: {dimension: bars} of a lower triangle; it needs a GPU."""
        size = round((1 + (1 + 8 * len(lower)) ** 0.5) / 2)
        whole = np.zeros((size, size))
        whole[np.tril_indices(size, -1)] = lower
        bars = ripser(whole + whole.T, maxdim=1, distance_matrix=True)["dgms"]
        return {dimension: [tuple(bar) for bar in part] for dimension, part in enumerate(bars)}

    stand_in("ripserplusplus", run=run)
    sys.path.insert(0, str(folder))
    from rtd.barcodes import rtd1

    return None, {"rtd1(x, y, pdist_device='cpu')": lambda x, y: rtd1(x, y, pdist_device="cpu")}


CHECKOUTS = {
    "platonic-rep": platonic_rep,
    "resi": resi,
    "sim_metric": sim_metric,
    "svcca": svcca,
    "representation_similarity": representation_similarity,
    "anatome": anatome,
    "rtd": rtd,
}
