"""Recall, MRR and other metrics, and the ranks that they are computed from."""

import numpy as np

TIES = ("standard", "conservative", "median")
METRICS = "recall", "mrr", "ndcg", "hit", "coverage", "popularity", "novelty"
OF_LISTS = "coverage", "popularity", "novelty"  # these need the best items, the others the target's rank alone
OF_CLICKS = "popularity", "novelty"  # these need to know how often each item was clicked in training


def count_rows(mask):
    """Count the true values in each row of a bool array; this takes a fifth of the time of `mask.sum(axis=1)`."""
    return np.fromiter((np.count_nonzero(row) for row in mask), np.int64, len(mask))


def target_ranks(scores, target_scores, ties="standard", count=count_rows):
    """The rank of each row's target among all items, 1 for the best.

    If s is the target's score, the rank is 1 + #(score > s) for `standard`, #(score >= s), which counts the target
    itself, for `conservative`, and halfway between the two for `median`.

    Parameters
    ----------
    scores : float array [rows, items]
    target_scores : float array [rows]
        Taken from `scores`, as another matrix product would round them differently.
    ties : {"standard", "conservative", "median"}
    count : function
        Takes the comparison of the two and counts the true values in each row, as an int array. With another function
        than the default, `scores` may be tensors.

    Returns
    -------
    float64 array [rows]
    """
    thresholds = target_scores[:, None]
    above = count(scores > thresholds) if ties != "conservative" else None
    return ranks_of_counts(above, count(scores >= thresholds) if ties != "standard" else None, ties)


def ranks_of_counts(above, at_least, ties):
    """The same from how many scores are above the target's and how many at least as large, int arrays [rows].

    One that `ties` doesn't need may be None.
    """
    if ties == "standard":
        return 1.0 + above
    at_least = at_least.astype(np.float64)
    return at_least if ties == "conservative" else (1 + above + at_least) / 2


def recall_and_mrr(ranks, cutoffs):
    """recall@k and MRR@k as `Measures` has them, of ranks, float array [predictions], and a list of cut-offs k.

    Returns
    -------
    dict
        {"recall@20": ..., "mrr@20": ...}; the recalls come first, then the MRRs.
    """
    return {f"{metric}@{k}": float(np.mean(rank_values(metric, ranks, k)))
            for metric in ("recall", "mrr") for k in cutoffs}


def rank_values(metric, ranks, k):
    """What a metric says of each prediction by its target's rank, float or bool array [predictions].

    A prediction has one target, the next click. It counts where its rank is at most k, and is 0 beyond.

    - recall: 1 (Hidasi et al., ICLR 2016, section 4)
    - hit: 1; with one target, the hit rate, HR@k of other papers, is the recall
    - mrr: 1 / rank (the same section)
    - ndcg: 1 / log2(rank + 1) (Järvelin and Kekäläinen, TOIS 2002, with the discount of Burges et al., ICML 2005; the
      ideal list has its only target first, which is 1, so nothing is left to divide by)
    """
    if metric in ("recall", "hit"):
        return ranks <= k
    return np.where(ranks <= k, 1 / ranks if metric == "mrr" else 1 / np.log2(ranks + 1), 0)


def item_values(metric, clicks):
    """What a metric says of each item by its training clicks, int array [items]: float64 array [items].

    - popularity: its clicks, divided by those of the most popular item (Ludewig and Jannach, "Evaluation of
      session-based recommendation algorithms", UMUAI 2018, and their code)
    - novelty: its self-information, -log2 of its share of all clicks, in bits (Zhou et al., PNAS 2010; Castells et al.,
      "Novelty and Diversity in Recommender Systems", 2015). An item without a click counts as if it had one.
    """
    if metric == "popularity":
        return clicks / max(clicks.max(), 1)
    return -np.log2(np.maximum(clicks, 1) / max(clicks.sum(), 1))


class Measures:
    """Metrics of predictions that come block by block.

    All but the coverage are means over the predictions: of `rank_values`, or of the mean of `item_values` over the k
    best items. coverage@k is the share of all items that are among the k best of at least one prediction (catalog
    coverage in Ge et al., RecSys 2010); it grows with the number of predictions.

    Parameters
    ----------
    metrics : list of str
        Of METRICS.
    cutoffs : list of int
    item_count : int
    clicks : int array [items], optional
        The training clicks on each item, where a metric is in OF_CLICKS.
    """

    def __init__(self, metrics, cutoffs, item_count, clicks=None):
        self.metrics, self.cutoffs = metrics, cutoffs
        self.ranks = []
        self.item_values = {metric: item_values(metric, clicks) for metric in metrics if metric in OF_CLICKS}
        self.list_values = {f"{metric}@{k}": [] for metric in self.item_values for k in cutoffs}
        self.covered = {f"coverage@{k}": np.zeros(item_count, bool) for k in cutoffs if "coverage" in metrics}

    @property
    def list_length(self):
        """How many of the best items `add` needs of each prediction; 0 if its target's rank is enough."""
        return max(self.cutoffs) if any(metric in OF_LISTS for metric in self.metrics) else 0

    def add(self, ranks, best=None):
        """Add a block of predictions.

        Parameters
        ----------
        ranks : float array [predictions]
        best : int array [predictions, list_length or more, or the number of items], optional
            The best first.
        """
        self.ranks.append(ranks)
        for k in self.cutoffs:
            for metric, values in self.item_values.items():
                self.list_values[f"{metric}@{k}"].append(values[best[:, :k]].mean(axis=1))
            if self.covered:
                self.covered[f"coverage@{k}"][best[:, :k]] = True

    def values(self):
        """What each metric but the coverage says of each prediction: arrays [predictions] by names as recall@20."""
        ranks = np.concatenate(self.ranks)
        return {f"{metric}@{k}": np.concatenate(self.list_values[f"{metric}@{k}"]) if metric in OF_CLICKS
                else rank_values(metric, ranks, k)
                for metric in self.metrics if metric != "coverage" for k in self.cutoffs}

    def figures(self):
        """The figures, a dict of float by names as recall@20, in the order of the metrics."""
        found = {**self.values(), **self.covered}
        return {name: float(np.mean(found[name]))
                for name in [f"{metric}@{k}" for metric in self.metrics for k in self.cutoffs]}
