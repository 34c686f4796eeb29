import torch

import bayesprior as bp

likelihood = bp.PixelCategorical()
logits = torch.zeros(2, 3, 4, 4)  # 3 classes at 4 x 4 pixels
masks = torch.zeros(2, 4, 4, dtype=torch.long)
print(likelihood.log_prob(logits, masks))
print(likelihood.predictive(logits).shape)
