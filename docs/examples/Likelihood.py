import torch

import bayesprior as bp

likelihood = bp.Categorical()
assert isinstance(likelihood, bp.Likelihood)
logits, labels = torch.zeros(2, 4), torch.tensor([0, 3])
print(likelihood.log_prob(logits, labels))  # minus log 4, in nats
print(likelihood.predictive(logits))
