"""Why something has no place, and what would help. Start at explainer.py."""

from kubarium.engine.explain.explainer import Explainer as Explainer
from kubarium.engine.explain.explainer import Question as Question
from kubarium.engine.explain.hierarchy import HierarchyQuestion as HierarchyQuestion
from kubarium.engine.explain.subject import Subject as Subject
