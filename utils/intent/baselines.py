"""Simple methods that a network for purchase intent must beat, by scikit-learn on the features of features.py."""

import numpy as np

from utils.files import InputError
from utils.intent.features import count, features_of, pairs_of, session_features
from utils.intent.metrics import Predictions, decide, outcomes_of, tune_thresholds
from utils.intent.sessions import choose_sessions

EVERYTHING, LOGISTIC, BOOSTING = "everything buys", "logistic regression", "gradient boosting"
PENALTIES = 0.001, 0.01, 0.1, 1.0  # C of the logistic regression
LEAVES = 6, 31  # of each tree
TREES = 400
QUANTILES = 300


def baseline_predictions(training, validation, test, sizes, seed):
    """What each method predicts of the test sessions, as `predictions_of` gives it, with what `baseline_scores` takes.

    Returns
    -------
    dict of str to metrics.Predictions
    """
    return predictions_of(baseline_scores(training, validation, test, sizes, seed), validation, test)


def predictions_of(scores, validation, test):
    """What methods with these `scores`, as of `baseline_scores`, predict of the test sessions; first, that all buy.

    The thresholds are those that are best for the validation sessions.
    """
    of_validation = outcomes_of(validation, pairs_of(validation))
    owners = pairs_of(test).owners
    found = {EVERYTHING: Predictions(np.ones(len(test)), np.ones(len(owners)), np.ones(len(test), bool),
                                     np.ones(len(owners), bool))}
    for name, of_method in scores.items():
        found[name] = decide(owners, *of_method[2:], *tune_thresholds(of_validation, *of_method[:2]))
    return found


def baseline_scores(training, validation, test, sizes, seed):
    """The probabilities that logistic regression and gradient boosting give.

    One model says whether a session buys. Another, fitted on the sessions that do, says which of its items. The
    penalty, and the size and number of trees, are those with the best likelihood of the validation sessions.

    Parameters
    ----------
    training, validation, test : sessions.IntentSessions
        Of the same vocabularies.
    sizes : pair of int
        The items and the categories of these.
    seed : int

    Returns
    -------
    dict of str to tuples of four float64 arrays
        Session scores and pair scores of the validation sessions, and of the test sessions, as in metrics.Predictions.

    Raises InputError where scikit-learn is missing.
    """
    counts = count(training, *sizes, seed)
    parts = (training, counts.folds), (validation, None)
    rows = [session_features(sessions, counts, folds) for sessions, folds in parts]
    buyers = [_of_buyers(sessions, counts, folds) for sessions, folds in parts]
    asked = [features_of(sessions, counts)[:2] for sessions in (validation, test)]
    found = {}
    for name, fit in ((LOGISTIC, _fit_logistic), (BOOSTING, _fit_boosting)):
        of_session = fit(rows[0], training.buys, rows[1], validation.buys, seed)
        of_pair = fit(*buyers[0], *buyers[1], seed)
        found[name] = tuple(scores for sessions, pairs in asked for scores in (of_session(sessions), of_pair(pairs)))
    return found


def _of_buyers(sessions, counts, folds):
    """The features of the items in sessions that buy, and which of them are bought."""
    numbers = np.flatnonzero(sessions.buys)
    buyers = choose_sessions(sessions, numbers)
    pair_features = features_of(buyers, counts, None if folds is None else folds[numbers])[1]
    return pair_features, buyers.bought[pairs_of(buyers).firsts]


def _fit_logistic(rows, labels, valid_rows, valid_labels, seed):
    """A function from feature rows to probabilities, by logistic regression on the features' normal scores."""
    linear_model, preprocessing, pipeline = (scikit_learn(name) for name in
                                             ("linear_model", "preprocessing", "pipeline"))
    if labels.all() or not labels.any():
        return lambda given: np.full(len(given), float(labels.mean()))
    models = []
    for penalty in PENALTIES:
        normal = preprocessing.QuantileTransformer(n_quantiles=min(QUANTILES, len(rows)), random_state=seed,
                                                   output_distribution="normal")
        model = pipeline.make_pipeline(normal, linear_model.LogisticRegression(C=penalty, max_iter=3000))
        models.append(model.fit(rows, labels))
    best = min(models, key=lambda model: _log_loss(valid_labels, model.predict_proba(valid_rows)[:, 1]))
    return lambda given: best.predict_proba(given)[:, 1]


def _fit_boosting(rows, labels, valid_rows, valid_labels, seed):
    """The same by gradient boosting of trees."""
    ensemble = scikit_learn("ensemble")
    if labels.all() or not labels.any():
        return lambda given: np.full(len(given), float(labels.mean()))
    best = np.inf, None, 0
    for leaves in LEAVES:
        model = ensemble.HistGradientBoostingClassifier(
            learning_rate=0.03, max_iter=TREES, max_leaf_nodes=leaves, min_samples_leaf=40, l2_regularization=10,
            max_features=0.15, early_stopping=False, random_state=seed).fit(rows, labels)
        losses = [_log_loss(valid_labels, found[:, 1]) for found in model.staged_predict_proba(valid_rows)]
        best = min(best, (min(losses), model, int(np.argmin(losses))), key=lambda found: found[0])
    _, model, trees = best
    return lambda given: next(found[:, 1] for place, found in enumerate(model.staged_predict_proba(given))
                              if place == trees)


def _log_loss(labels, probabilities):
    """The mean negative logarithm of the probability of what happened."""
    probabilities = np.clip(np.where(labels, probabilities, 1 - probabilities), 1e-12, 1)
    return -np.log(probabilities).mean()


def scikit_learn(name):
    """A module of scikit-learn; InputError where it isn't installed."""
    from importlib import import_module
    try:
        return import_module(f"sklearn.{name}")
    except ModuleNotFoundError as error:
        raise InputError(f"found no Python package {error.name}, expected scikit-learn (pip install --require-hashes "
                         "-r requirements-intent.txt)") from None
