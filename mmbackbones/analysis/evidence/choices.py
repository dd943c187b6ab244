"""What the options of the regression choose from. Imports nothing."""

# Metric -> task, head. All with the schedule of our common recipe.
METRICS = {
    'AP_box': ('detection', 'Mask R-CNN'),
    'AP_mask': ('detection', 'Mask R-CNN'),
    'mIoU_ss': ('segmentation', 'UperNet'),
}
COVARIATES = ('none', 'params', 'macs')  # attributes of a point, but for the first
