"""Where known data sets come from, and in which layout they are read: the sentence for one that is not on the disk."""

import os

# Framework and class -> name, source, layout below data_root.
ORIGINS = {
    'mmdet.CocoDataset': (
        'COCO 2017',
        'cocodataset.org (2017 train and val images, train/val annotations)',
        'annotations/instances_{train,val}2017.json, train2017/*.jpg, val2017/*.jpg',
    ),
    'mmseg.ADE20KDataset': (
        'ADE20K',
        'the MIT scene parsing challenge (ADEChallengeData2016.zip)',
        '{images,annotations}/{training,validation}/*.{jpg,png}',
    ),
    'mmseg.CityscapesDataset': (
        'Cityscapes',
        'cityscapes-dataset.com after registration (leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip)',
        '{leftImg8bit,gtFine}/{train,val}/CITY/*_{leftImg8bit,gtFine_labelTrainIds}.png; the latter are made by '
        'csCreateTrainIdLabelImgs of the package cityscapesscripts',
    ),
    'mmseg.LoveDADataset': (
        'LoveDA',
        'zenodo.org/records/5706578 (Train.zip, Val.zip)',
        '{img_dir,ann_dir}/{train,val}/*.png, Urban and Rural in one folder',
    ),
}
OPTION = '--cfg-options {train,val,test}_dataloader.dataset.data_root=DIR'


def known_type(built: object) -> str:
    """Name of a type in :data:`ORIGINS` whose own classes the data set has, as the framework builds it; else empty."""
    cls = type(built)
    kind, own = f'{cls.__module__.partition(".")[0]}.{cls.__name__}', getattr(cls, 'METAINFO', {}).get('classes') or ()
    return kind if kind in ORIGINS and tuple(built.metainfo.get('classes') or ()) == tuple(own) else ''


def origin_of(kind: str) -> str:
    """Clause that says where a data set of a known type comes from and where it is looked for; empty without one."""
    if not kind:
        return ''
    name, source, layout = ORIGINS[kind]
    more = ' {val,test}_evaluator.ann_file=FILE' if kind == 'mmdet.CocoDataset' else ''
    return f'; {name} comes from {source} and is read as {layout}; for another folder: {OPTION}{more}'


def unprepared(kind: str, img_dir: str, seg_dir: str | None) -> str:
    """Clause on what there is of a known data set that is not in its layout yet; empty if nothing is recognised.

    Args:
        kind: see :func:`known_type`.
        img_dir: folder of the images.
        seg_dir: folder of the masks.
    """
    if kind == 'mmseg.LoveDADataset':
        root = os.path.dirname(os.path.dirname(os.path.normpath(img_dir)))
        raw = [part for part in ('Train', 'Val') if os.path.isdir(os.path.join(root, part))]
        if raw:
            return (
                f'; {root} has {" and ".join(raw)} as downloaded: move the files of Urban/images_png and '
                'Rural/images_png to img_dir/{train,val}, those of masks_png to ann_dir/{train,val}'
            )
    if kind == 'mmseg.CityscapesDataset' and seg_dir and os.path.isdir(seg_dir):
        for _, _, files in os.walk(seg_dir):
            if any(file.endswith('_gtFine_labelTrainIds.png') for file in files):
                return ''
            if any(file.endswith('_gtFine_labelIds.png') for file in files):
                return (
                    '; there are *_gtFine_labelIds.png alone: make the training labels with '
                    f'CITYSCAPES_DATASET={os.path.dirname(os.path.dirname(os.path.normpath(seg_dir)))} '
                    'csCreateTrainIdLabelImgs (pip install cityscapesscripts)'
                )
    return ''
